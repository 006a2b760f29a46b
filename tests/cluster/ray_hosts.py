"""A Ray cluster whose nodes are hosts of their own, with a token, and quick to see that a node is gone."""

import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.cluster.command import wait_for
from tests.cluster.hosts import Host, Hosts, hosts
from tests.cluster.world import environment, marks

_BIN = Path(sys.executable).parent
_NODE = ("--block", "--num-cpus=1", "--object-store-memory=100000000")
_PORT = 6379
HEALTH = {"initial_delay_ms": 1000, "period_ms": 1000, "timeout_ms": 2000, "failure_threshold": 4}
"""Some 12 s until a node that no longer answers is dead, where Ray's own values take a minute."""


class RayHosts:
    """Hosts by their names; the first is the head, and each has room for one worker."""

    def __init__(self, made: Hosts) -> None:
        self._hosts = made
        health = {f"RAY_health_check_{name}": str(value) for name, value in HEALTH.items()}
        self.environment: Mapping[str, str] = environment(
            RAY_AUTH_MODE="token",
            RAY_AUTH_TOKEN=secrets.token_hex(32),
            RAY_USAGE_STATS_ENABLED="0",
            RAY_memory_monitor_refresh_ms="0",
            HOME=str(made.folder),
            PATH=f"{_BIN}:{os.environ['PATH']}",
            **health,
        )

    def head(self, name: str) -> Host:
        """The first host; returns once it can be joined."""
        alone = ("--head", f"--port={_PORT}", "--include-dashboard=false", f"--temp-dir={self._hosts.temporary}")
        host = self._start(name, *alone)
        self.address = f"{host.address}:{_PORT}"
        knock = f"import socket; socket.create_connection(('{host.address}', {_PORT}), 1)"
        wait_for(lambda: not _failed(host.command(sys.executable, "-c", knock)), "the head of the cluster", 60)
        return host

    def join(self, name: str) -> Host:
        """One more host, which is a node of the cluster some seconds later."""
        return self._start(name, f"--address={self.address}")

    def _start(self, name: str, *how: str) -> Host:
        return self._hosts.add(
            name, lambda at: ["ray", "start", *how, *_NODE, f"--node-ip-address={at}"], self.environment
        )


@contextmanager
def ray_hosts() -> Iterator[RayHosts]:
    """No host yet; ended with all that were added."""
    with hosts() as made:
        yield RayHosts(made)


def workers(host: Host, lake: Path) -> list[int]:
    """Processes there that have marked a unit, as the machine numbers them."""
    names = {mark["worker"] for mark in marks(lake).values()}
    return [pid for pid in host.pids() if f"{host.name}:{_own_number(pid)}" in names]


@contextmanager
def frozen(pids: Sequence[int]) -> Iterator[None]:
    """The processes stand still for the length of the block."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def bytes_read(pid: int) -> int:
    """What a process has read so far, from anywhere."""
    fields = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    return int(fields["rchar"])


def _own_number(pid: int) -> int:
    """How a process is numbered on its own host."""
    with suppress(OSError):
        status = Path(f"/proc/{pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[-1])
    return 0


def _failed(command: Sequence[str]) -> bool:
    return bool(subprocess.run(command, capture_output=True, check=False).returncode)
