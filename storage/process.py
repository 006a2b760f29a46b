"""Which process this is, for people and for telling whether it is still there."""

import getpass
import os
import platform
from pathlib import Path


def owner() -> str:
    """User and host."""
    return f"{user()}@{platform.node()}"


def user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return str(os.getuid())


def this_process() -> str:
    """Boot, pid namespace, pid and its start: enough to know on this machine that the process is gone."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}:{os.stat('/proc/self/ns/pid').st_ino}:{os.getpid()}:{_started(os.getpid())}"  # noqa: PTH116
    except OSError:
        return ""


def gone(process: str) -> bool:
    """Whether that process ran here and is dead for certain."""
    here, (*place, pid, started) = this_process(), process.split(":") if process.count(":") == 3 else ("", "", "")
    if not here or here.split(":")[:2] != place:
        return False
    try:
        return _started(int(pid)) != started
    except OSError:
        return True


def _started(pid: int) -> str:
    """When the process started, in clock ticks since boot; field 22 of its status line, after a name of any shape."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    if fields[0] == "Z":
        raise ProcessLookupError(pid)
    return fields[19]
