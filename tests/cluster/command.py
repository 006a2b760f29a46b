"""`garner` as a process of its own, on this machine or on one of its hosts."""

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 120
"""Seconds after which a test that waits for other processes gives up."""
_LOST = re.compile(r"a worker [^:]+: (?P<worker>\S+), at (?P<task>.*) \((?P<reason>\w+): (?P<detail>.*)\); another")


class Run:
    """`garner` with these arguments; what it says goes to a file."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self._log = log
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=dict(environment), stdout=out, stderr=out, start_new_session=True
            )

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def said(self) -> str:
        """Its standard output and standard error."""
        return self._log.read_text(errors="replace")

    @property
    def losses(self) -> list[dict[str, str]]:
        """Worker, tasks, reason and detail of each loss that it told of."""
        return [found.groupdict() for found in _LOST.finditer(self.said)]

    def lost(self, host: str) -> list[dict[str, str]]:
        """Those of workers on one host."""
        return [loss for loss in self.losses if loss["worker"].startswith(f"{host}:")]

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait()

    def wait(self) -> int:
        """Its exit code."""
        return self._process.wait(PATIENCE)

    def until(self, condition: Callable[[], T], what: str) -> T:
        """The first true value of `condition()` while it runs."""
        try:
            return wait_for(lambda: condition() or self._ended(what), what)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; garner said: {self.said}") from error

    def _ended(self, what: str) -> None:
        assert self.alive, f"garner ended before {what}: {self.said}"


def garner(*arguments: str) -> list[str]:
    """The command, as this environment has it."""
    return [sys.executable, "-m", "pipeline", *arguments]


@contextmanager
def running(command: Sequence[str], environment: Mapping[str, str], log: Path) -> Iterator[Run]:
    """The command under way; killed at the end of the block if it still is."""
    run = Run(command, environment, log)
    try:
        yield run
    finally:
        run.kill()


def wait_for(condition: Callable[[], T], what: str, patience: float = PATIENCE) -> T:
    """The first true value of `condition()`."""
    until = time.monotonic() + patience
    while time.monotonic() < until:
        if value := condition():
            return value
        time.sleep(0.05)
    raise TimeoutError(f"waited {patience:.0f} s for {what}")
