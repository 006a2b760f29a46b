"""A Ray head of its own on this machine, as `ray start` brings it up, with its dashboard and a token or without."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.request import Request, urlopen

_PATIENCE = 120


@dataclass(frozen=True)
class Head:
    """Where it listens, and what it asks for."""

    port: int
    dashboard: int
    folder: Path
    token: str | None = field(repr=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.dashboard}"


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, all different."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@contextmanager
def running_head(token: str | None, n_cpus: int = 2) -> Iterator[Head]:
    """A head that is up; ended with all its processes, and with them alone."""
    folder = Path(tempfile.mkdtemp(prefix="garner-", dir="/tmp"))  # a socket's path must be short
    port, dashboard, client, agent = free_ports(4)
    head = Head(port, dashboard, folder, token)
    ours = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    auth = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token} if token else {"RAY_AUTH_MODE": "disabled"}
    bin_folder = str(Path(sys.executable).parent)
    environment = (
        ours
        | auth
        | {
            "HOME": str(folder),
            "PATH": f"{bin_folder}:{os.environ['PATH']}",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_memory_monitor_refresh_ms": "0",
            "OMP_NUM_THREADS": "1",
        }
    )
    command = [
        f"{bin_folder}/ray", "start", "--head", "--block", f"--port={port}", f"--num-cpus={n_cpus}",
        "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", "--include-dashboard=true",
        f"--ray-client-server-port={client}", f"--dashboard-agent-listen-port={agent}",
        f"--temp-dir={folder}/ray", "--object-store-memory=100000000",
    ]  # fmt: skip
    with (folder / "head.log").open("wb") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out, cwd=folder, start_new_session=True)
    try:
        _wait(head, process)
        yield head
    finally:
        _end(process, folder)
        shutil.rmtree(folder, ignore_errors=True)


def _wait(head: Head, process: "subprocess.Popen[bytes]") -> None:
    """Until its job server answers and has an agent to run jobs."""
    deadline = time.monotonic() + _PATIENCE
    headers = {"Authorization": f"Bearer {head.token}"} if head.token else {}
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError), urlopen(Request(f"{head.url}/api/jobs/", headers=headers), timeout=5):
            return
        time.sleep(0.3)
    raise AssertionError((head.folder / "head.log").read_text())


def _end(process: "subprocess.Popen[bytes]", folder: Path) -> None:
    process.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(15)
    for _ in range(3):
        for pid in _born_in(folder):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.2)
    process.wait(15)


def _born_in(folder: Path) -> list[int]:
    """Processes whose environment says that this head is their ancestor."""
    mark, found = f"HOME={folder}\0".encode(), []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if mark in entry.read_bytes():
                found.append(int(entry.parent.name))
    return found
