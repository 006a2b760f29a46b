"""Drivers one after the other in forks of this process, each dying as it syncs something, and one that lives.

Run under strace: `python -m tests.chaos.relay DEATHS SEED ARGUMENTS...`
"""

import importlib
import os
import random
import signal
import sys
import tempfile

from tests.chaos.drivers import WARM, child


def main() -> None:
    """Exit code of the last driver."""
    deaths, seed, *arguments = sys.argv[1:]
    for name in WARM:
        importlib.import_module(name)
    dice = random.Random(int(seed))
    for _ in range(int(deaths)):
        _fork(arguments, dice.randrange(1, 9))
    sys.exit(_fork(arguments, 0))


def _fork(arguments: list[str], last: int) -> int:
    """The exit code of a driver that is killed instead of its sync of that number; 0 lets it live."""
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if last:
        _die_at(last)
    with tempfile.NamedTemporaryFile() as log:
        child(arguments, True, {}, log.name)
    raise AssertionError("a driver ends with its exit code")


def _die_at(last: int) -> None:
    """A file is synced before it is linked and its folder after: half of the deaths fall between link and sync."""
    sync, count = os.fsync, 0

    def mortal(descriptor: int) -> None:
        nonlocal count
        count += 1
        if count == last:
            os.kill(os.getpid(), signal.SIGKILL)
        sync(descriptor)

    os.fsync = mortal  # type: ignore[assignment]


if __name__ == "__main__":
    main()
