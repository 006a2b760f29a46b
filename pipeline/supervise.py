"""A night's work in a process of its own, watched: it has a deadline, ends with its watcher, and leaves word if killed.

The watcher holds the lease and does nothing else, so that the lease keeps beating whatever the work does to its
process. Down the pipe go the order, and later the reason to stop; its end means that the watcher is gone.
"""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import IO

import msgspec

from pipeline import logs
from pipeline.night_work import INTERRUPTED, Ended, Order, attempt
from storage.lease import Lease
from storage.value import decode

GRACE = 25.0
"""Seconds from the request to stop until the process is killed."""
_ORPHANED = 10.0
"""Seconds that the work has to end once its watcher is gone."""
_POLL = 0.25
_LINES = 200
"""Of what the process says, those that are kept."""
_LONGEST = 10_000
"""Characters of an error that cross the pipe."""
_CODE = "import sys; sys.path.insert(0, sys.argv[1]); from pipeline.supervise import child; sys.exit(child())"


def in_child(order: Order, lease: Lease, deadline: float | None) -> Ended:
    """Work the night in a process of its own; `deadline` is in seconds from now."""
    heard, told = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", _CODE, str(Path(__file__).parents[1]), _form(), str(told)],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=(told,),
        start_new_session=True,
        env={name: value for name, value in os.environ.items() if name not in order.hidden},
    )
    os.close(told)
    assert process.stdin
    assert process.stderr
    tail: deque[str] = deque(maxlen=_LINES)
    tee = threading.Thread(target=_tee, args=(process.stderr, tail), daemon=True)
    tee.start()
    _say(process.stdin, msgspec.json.encode(order))
    try:
        reason = _watch(process, lease, deadline)
        tee.join(timeout=5)  # a grandchild may hold the pipe open
        return _ended(process.returncode, reason, heard, "".join(tail))
    finally:
        _kill(process)
        os.close(heard)
        with suppress(BrokenPipeError):
            process.stdin.close()
        if not tee.is_alive():
            process.stderr.close()


def child() -> int:
    """What the process runs."""
    form, told = sys.argv[2:4]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job starts with it ignored
    logs.configure("json" if form == "json" else "text")
    line, rest = _first_line()
    watched = _Watched(rest)
    ended = attempt(decode(line, Order, "the order"), lambda: watched.reason)
    ended = msgspec.structs.replace(ended, error=ended.error[-_LONGEST:])
    os.write(int(told), msgspec.json.encode(ended))
    return 1 if ended.error else 0


class _Watched:
    """Hears from the watcher, and interrupts this process when it is to stop."""

    def __init__(self, heard: bytes) -> None:
        self.reason = ""
        self._heard = heard
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while b"\n" not in self._heard:
            more = os.read(0, 4096)
            if not more:
                self.reason = "the process that watched it is gone"
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(_ORPHANED)
                os._exit(1)
            self._heard += more
        line, _, self._heard = self._heard.partition(b"\n")
        self.reason = line.decode()
        os.kill(os.getpid(), signal.SIGINT)
        self._listen()


def _watch(process: "subprocess.Popen[bytes]", lease: Lease, deadline: float | None) -> str:
    """Wait for the process to end, and make it end where it must; why, or ""."""
    began, asked, reason = time.monotonic(), 0.0, ""
    while True:
        try:
            process.wait(timeout=_POLL)
            return reason
        except subprocess.TimeoutExpired:
            if not reason:
                reason = _reason(lease, deadline, time.monotonic() - began)
        except KeyboardInterrupt:
            reason = reason or INTERRUPTED
        if reason and not asked:
            asked = time.monotonic()
            assert process.stdin
            _say(process.stdin, reason.encode())
        elif asked and time.monotonic() - asked > GRACE:
            _kill(process)


def _reason(lease: Lease, deadline: float | None, seconds: float) -> str:
    if lease.lost:
        return "another took the lease, because this machine gave no sign of life"
    if deadline is not None and seconds > deadline:
        return f"the deadline of {deadline:,.0f} s passed"
    return ""


def _ended(code: int, reason: str, heard: int, tail: str) -> Ended:
    """From what the process left."""
    os.set_blocking(heard, False)
    try:
        said = os.read(heard, 1 << 20)
    except BlockingIOError:
        said = b""
    ended = decode(said, Ended, "what the process said") if said else Ended(error=_died(code))
    if reason and ended.error:
        ended = msgspec.structs.replace(ended, error=reason, interrupted=reason == INTERRUPTED)
    return msgspec.structs.replace(ended, log=tail)


def _died(code: int) -> str:
    if code >= 0:
        return f"the process that did the work ended with exit code {code} and said nothing"
    name = signal.Signals(-code).name
    memory = ": the machine may have run out of memory" if -code == signal.SIGKILL else ""
    return f"the process that did the work was killed by {name}{memory}"


def _kill(process: "subprocess.Popen[bytes]") -> None:
    with suppress(ProcessLookupError):
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _form() -> logs.Format:
    """How this process logs, which the other is to do as well."""
    handlers = logging.getLogger().handlers
    return "json" if any(isinstance(one.formatter, logs.JsonFormatter) for one in handlers) else "text"


def _say(pipe: IO[bytes], line: bytes) -> None:
    with suppress(BrokenPipeError):  # it is gone, which its exit code will tell
        pipe.write(line + b"\n")
        pipe.flush()


def _tee(pipe: IO[bytes], tail: deque[str]) -> None:
    """Pass on what the process says, and keep the end of it."""
    for raw in pipe:
        line = raw.decode(errors="replace")
        tail.append(line)
        sys.stderr.write(line)


def _first_line() -> tuple[bytes, bytes]:
    """The order, and what came after it; read below Python's buffers, which a thread must not hold at exit."""
    data = b""
    while b"\n" not in data:
        more = os.read(0, 65536)
        if not more:
            sys.exit(1)
        data += more
    line, _, rest = data.partition(b"\n")
    return line, rest
