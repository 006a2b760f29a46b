"""Hosts on one machine: each a network, mount, process and host name namespace of its own, joined by a switch.

The disk is shared, so that a lake in a folder is there for all; /dev/shm and Ray's temporary folder are each host's
own. Nothing of it is seen outside: the switch is in a namespace too. A host's first process is its init, so that
killing that ends all that ever ran there.
"""

import os
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_PATIENCE = 60
_BOOT = """
hostname "$0"
mount -t tmpfs -o size=512m tmpfs /dev/shm
mount --bind "$1" "$2"
touch "$3"
shift 3
"$@" &
wait
"""
"""A host's init: waits for what it runs, and buries what others leave."""


def unavailable() -> str:
    """Why this machine has no such hosts; empty if it has."""
    if os.geteuid() != 0:
        return "only root may make network namespaces"
    if lacking := [tool for tool in ("ip", "unshare", "nsenter", "mount") if not shutil.which(tool)]:
        return f"{', '.join(lacking)} not found"
    with suppress(subprocess.CalledProcessError, RuntimeError), hosts() as made:
        made.add("probe", lambda address: ["true"], os.environ)
        return ""
    return "this machine does not permit namespaces with bridged networks"


class Host:
    """One of them."""

    def __init__(self, name: str, address: str, space: str, switch: str, process: "subprocess.Popen[bytes]") -> None:
        self.name, self.address, self.space = name, address, space
        self._switch, self._process = switch, process

    def command(self, *words: str) -> list[str]:
        """What runs a command there."""
        parent = self._process.pid
        init = Path(f"/proc/{parent}/task/{parent}/children").read_text().strip()
        return ["nsenter", f"--target={init}", "--net", "--mount", "--pid", "--uts", f"--wd={ROOT}", *words]

    def pids(self) -> list[int]:
        """Its processes, as the machine numbers them."""
        return [int(pid) for pid in _say("ip", "netns", "pids", self.space).split()]

    def kill(self) -> None:
        """SIGKILL to everything on it at once."""
        self._process.kill()  # takes its child along, which is the init
        self._process.wait()
        until = time.monotonic() + _PATIENCE
        while self.pids() and time.monotonic() < until:
            time.sleep(0.05)

    def cut(self) -> None:
        """Pull the cable; every connection stays open, and nothing comes through."""
        _switch(self._switch, "set", "dev", self.name, "down")

    def heal(self) -> None:
        """Plug it in again."""
        _switch(self._switch, "set", "dev", self.name, "up")


class Hosts:
    """Those on one switch, by their names."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        """Where each keeps what is its own."""
        self.temporary = folder / "ray"
        """What is a folder of its own on each."""
        self.temporary.mkdir()
        self.there: dict[str, Host] = {}
        self._spaces = [f"garner-{secrets.token_hex(4)}"]
        _say("ip", "netns", "add", self._spaces[0])
        _switch(self._spaces[0], "add", "name", "switch", "type", "bridge")
        _switch(self._spaces[0], "set", "dev", "switch", "up")

    def add(self, name: str, command: Callable[[str], Sequence[str]], environment: Mapping[str, str]) -> Host:
        """A new host that runs a command, which is told the host's address; what it says is in `log(name)`."""
        space = self._wired(name, address := f"10.77.0.{len(self._spaces)}")
        own, booted = self.folder / name, self.folder / f"{name}.up"
        own.mkdir()
        boot = ["bash", "-ec", _BOOT, name, str(own), str(self.temporary), str(booted), *command(address)]
        apart = ["unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
        with self.log(name).open("wb") as out:
            process = subprocess.Popen(
                ["ip", "netns", "exec", space, *apart, *boot],
                env=dict(environment),
                stdout=out,
                stderr=out,
                start_new_session=True,
                cwd=ROOT,
            )
        self.there[name] = Host(name, address, space, self._spaces[0], process)
        until = time.monotonic() + _PATIENCE
        while not booted.exists():
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"host {name} did not come up: {self.log(name).read_text()}")
            time.sleep(0.02)
        return self.there[name]

    def _wired(self, name: str, address: str) -> str:
        """A new network namespace on the switch."""
        space = f"{self._spaces[0]}-{name}"
        _say("ip", "netns", "add", space)
        self._spaces.append(space)
        _switch(self._spaces[0], "add", "name", name, "type", "veth", "peer", "name", "eth0", "netns", space)
        _switch(self._spaces[0], "set", "dev", name, "master", "switch", "up")
        _say("ip", "-n", space, "addr", "add", f"{address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _say("ip", "-n", space, "link", "set", device, "up")
        return space

    def log(self, name: str) -> Path:
        """What a host's command says."""
        return self.folder / f"{name}.log"

    def end(self) -> None:
        """Nothing is left of any."""
        for host in self.there.values():
            host.kill()
        for space in self._spaces:
            subprocess.run(["ip", "netns", "del", space], check=False)


@contextmanager
def hosts() -> Iterator[Hosts]:
    """A switch without hosts; ended with all that were added."""
    folder = Path(tempfile.mkdtemp(prefix="garner-", dir="/tmp"))  # a socket's path must be short
    made = Hosts(folder)
    try:
        yield made
    finally:
        made.end()
        shutil.rmtree(folder, ignore_errors=True)


def _switch(space: str, verb: str, *words: str) -> None:
    _say("ip", "-n", space, "link", verb, *words)


def _say(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout
