"""Drivers to be killed: `garner` in a process forked from one that has imported everything, or started anew.

A fork saves the seconds of importing torch, so that a minute has some hundred kills; it is killed as any other process.
"""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing.context import ForkServerProcess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 200
"""Seconds after which a driver that should have ended is given up."""
Storage = Mapping[str, str]
"""Environment that says where an object store is and who may use it."""
WARM = (
    "pipeline.__main__",
    "pipeline.facts",
    "pipeline.repair",
    "pipeline.report",
    "pipeline.verify",
    "pyarrow.dataset",
    "pyarrow.parquet",
    "s3fs",
    "transformers.models.gpt2.modeling_gpt2",
    "workers.harvest",
    "workers.tokenise",
    "zarr",
)
"""What the process that is forked has imported. It starts no thread and opens no store: neither outlives a fork."""
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "RAY_memory_monitor_refresh_ms": "0"}


class Forked:
    """`garner` with these arguments, in a fork of a warm process; what it says goes to a file."""

    def __init__(self, arguments: Sequence[str], fine: bool, storage: Storage | None = None) -> None:
        os.environ.update(ENVIRONMENT)
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(WARM))
        descriptor, name = tempfile.mkstemp(prefix="garner-chaos-", suffix=".log")
        os.close(descriptor)
        self._log = Path(name)
        self._process: ForkServerProcess = context.Process(
            target=child, args=(tuple(arguments), fine, dict(storage or {}), name)
        )
        self._process.start()

    @property
    def pid(self) -> int:
        """Its process id; no other process can have it before `wait`."""
        return int(self._process.pid or 0)

    @property
    def alive(self) -> bool:
        return self._process.is_alive()

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()

    def wait(self) -> int:
        """Its exit code, negative if a signal ended it."""
        self._process.join(PATIENCE)
        if self._process.exitcode is None:
            self.kill()
            raise TimeoutError(f"a driver did not end in {PATIENCE} s: {self.said}")
        return self._process.exitcode

    @property
    def said(self) -> str:
        """Its standard output and standard error."""
        return self._log.read_text(errors="replace")

    def forget(self) -> None:
        """Remove what it said."""
        self._log.unlink(missing_ok=True)


class Started:
    """`garner` with these arguments as a shell starts it, in a session of its own."""

    def __init__(self, arguments: Sequence[str], whole: bool) -> None:
        self._whole = whole
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  `forget` closes it
        self._below = set[int]()
        command = [sys.executable, "-m", "pipeline", *arguments]
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | ENVIRONMENT,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        """SIGKILL to the driver alone, or to all that it has started too."""
        self._below |= set(_descendants(self._process.pid))
        self._process.kill()
        if self._whole:
            self.end_below()

    def end_below(self) -> None:
        """SIGKILL to what is left of what it started."""
        for pid in self._below | set(_descendants(self._process.pid)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def kill_worker(self, dice: random.Random) -> bool:
        """SIGKILL to one of Ray's actors below it; False if there is none."""
        actors = [pid for pid in _descendants(self._process.pid) if _command(pid).startswith(b"ray::_Actor")]
        if actors:
            os.kill(dice.choice(actors), signal.SIGKILL)
        return bool(actors)

    def wait(self) -> int:
        """Its exit code, negative if a signal ended it."""
        return self._process.wait(PATIENCE)

    @property
    def said(self) -> str:
        """Its standard output and standard error."""
        self._log.seek(0)
        return self._log.read()

    def forget(self) -> None:
        """Leave nothing running."""
        self.end_below()
        self._log.close()


def child(arguments: Sequence[str], fine: bool, storage: Storage, log: str) -> None:
    """What a forked driver does."""
    os.setsid()
    os.environ.update(storage)
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    if fine:
        cut_finely()
    from pipeline.__main__ import main

    sys.exit(main(list(arguments)))


def cut_finely() -> None:
    """A token part for every file, shards of 16 float32 rows of the tiny model, inner chunks of 4."""
    from pipeline import survey
    from storage import layout
    from tests.pipeline.tiny import WIDTH

    survey.parts.__defaults__ = (1,)
    layout.CHUNK_BYTES, layout.SHARD_BYTES, layout.UNIT_SEQUENCES = 4 * 4 * WIDTH, 16 * 4 * WIDTH, 1


def finished(arguments: Sequence[str], fine: bool, storage: Storage | None = None) -> tuple[int, str]:
    """Exit code of a forked driver that nothing disturbs, and what it said."""
    driver = Forked(arguments, fine, storage)
    try:
        return driver.wait(), driver.said
    finally:
        driver.forget()


def _descendants(pid: int) -> list[int]:
    """Process ids below one, found while their parents live."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found, left = [], [pid]
    while left:
        below = children.get(left.pop(), [])
        found, left = [*found, *below], [*left, *below]
    return found


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
