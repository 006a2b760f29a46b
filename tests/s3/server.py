"""A real S3 server for tests: Ceph's object gateway over one monitor and one disk in memory, from Debian's packages.

`python -m tests.s3.server` starts one, prints the environment that reaches it, and waits.
"""

import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import fsspec

PACKAGES = ("ceph-mon", "ceph-osd", "radosgw", "ceph-common")
INSTALL = f"apt-get install --no-install-recommends {' '.join(PACKAGES)}"
PROGRAMS = ("ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
PATIENCE = 120
"""Seconds in which the gateway answers, even on a machine that is busy."""
_PORTS = 64
_CONFIGURATION = """
fsid = {fsid}
mon_host = {monitors}
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
ms_bind_port_min = {osd_first}
ms_bind_port_max = {osd_last}
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 8
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_max_pg_per_osd = 1000
osd_objectstore = memstore
memstore_device_bytes = 4294967296
run_dir = {root}
keyring = {root}/keyring
mon_data = {root}/mon
osd_data = {root}/osd
rgw_data = {root}/rgw
log_file = {root}/$name.log
pid_file = {root}/$name.pid
admin_socket = {root}/$name.$pid.asok
"""


@dataclass(frozen=True)
class Server:
    """Where a running server answers, and the credentials of its one user."""

    endpoint: str
    key: str
    secret: str

    @property
    def environment(self) -> Mapping[str, str]:
        """What S3 clients read, in this process and in those below it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def make_bucket(self, name: str) -> str:
        """The URL of a new bucket."""
        options = {"endpoint_url": self.endpoint, "key": self.key, "secret": self.secret}
        fsspec.filesystem("s3", **options).mkdir(name)
        return f"s3://{name}"


def missing() -> tuple[str, ...]:
    """The programs that are not installed here."""
    return tuple(program for program in PROGRAMS if not shutil.which(program))


@contextmanager
def serve() -> Iterator[Server]:
    """A server in a temporary folder on free ports; gone with all that it held when the block, or the process, ends."""
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ceph-", ignore_cleanup_errors=True)))
        cluster = _Cluster(root, _free_ports(_PORTS))
        stack.callback(cluster.stop)
        cluster.start()
        yield cluster.server


class _Cluster:
    """Ceph's processes; made from nothing in `root`."""

    def __init__(self, root: Path, port: int) -> None:
        self.root, self.processes = root, list[subprocess.Popen[bytes]]()
        self.server = Server(f"http://127.0.0.1:{port}", secrets.token_hex(10).upper(), secrets.token_hex(20))
        self.fsid = str(uuid.uuid4())
        self.monitors = f"[v2:127.0.0.1:{port + 1},v1:127.0.0.1:{port + 2}]"
        for name in ("mon", "osd", "rgw"):
            (root / name).mkdir()
        settings = {"fsid": self.fsid, "monitors": self.monitors, "osd_first": port + 3, "osd_last": port + _PORTS - 1}
        (root / "ceph.conf").write_text("[global]" + _CONFIGURATION.format(root=root, **settings))

    def start(self) -> None:
        """Monitor, disk, gateway, user: each needs the one before."""
        self._start_monitor()
        self._start_disk()
        self._daemon("radosgw", "-n", "client.admin", f"--rgw_frontends=beast endpoint={self.server.endpoint[7:]}")
        self._wait()
        names = ("--uid=tests", "--display-name=tests")
        keys = (f"--access-key={self.server.key}", f"--secret-key={self.server.secret}")
        self._run("radosgw-admin", "-n", "client.admin", "user", "create", *names, *keys)

    def stop(self) -> None:
        """Kill what was started, last first; there is nothing worth saving."""
        for process in reversed(self.processes):
            process.kill()
            process.wait()

    def _start_monitor(self) -> None:
        ring, names = str(self.root / "keyring"), str(self.root / "monmap")
        everything = [word for daemon in ("mon", "osd", "mgr") for word in ("--cap", daemon, "allow *")]
        _call("ceph-authtool", "--create-keyring", ring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
        for name in ("client.admin", "osd.0"):
            _call("ceph-authtool", ring, "--gen-key", "-n", name, *everything)
        _call("monmaptool", "--create", "--fsid", self.fsid, "--addv", "a", self.monitors, names)
        self._run("ceph-mon", "-i", "a", "--mkfs", "--monmap", names, "--keyring", ring)
        self._daemon("ceph-mon", "-i", "a")

    def _start_disk(self) -> None:
        disk = str(uuid.uuid4())
        self._run("ceph", "osd", "new", disk)
        self._run("ceph", "auth", "import", "-i", str(self.root / "keyring"))
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", disk)
        self._daemon("ceph-osd", "-i", "0")

    def _wait(self) -> None:
        """Until the gateway answers anything at all."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            ended = [process.args for process in self.processes if process.poll() is not None]
            if ended:
                raise RuntimeError(f"{ended[0]} ended: see {self.root}/*.log")
            try:
                with closing(urllib.request.urlopen(self.server.endpoint, timeout=5)):
                    return
            except urllib.error.HTTPError:
                return
            except OSError:
                time.sleep(0.1)
        raise TimeoutError(f"the gateway does not answer after {PATIENCE} s: see {self.root}/*.log")

    def _run(self, program: str, *arguments: str) -> None:
        _call(program, "-c", str(self.root / "ceph.conf"), *arguments)

    def _daemon(self, program: str, *arguments: str) -> None:
        """Start what stays; the kernel kills it with this process, whatever ends that."""
        command = ("setpriv", "--pdeathsig", "KILL", program, "-c", str(self.root / "ceph.conf"), "-f", *arguments)
        self.processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))


def _call(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stderr.strip()}")


def _free_ports(count: int) -> int:
    """The first of so many ports in a row that nobody listens on."""
    for _ in range(100):
        first = 20_000 + secrets.randbelow(40_000 // count) * count
        with ExitStack() as stack:
            try:
                for port in range(first, first + count):
                    stack.enter_context(closing(socket.socket())).bind(("127.0.0.1", port))
            except OSError:
                continue
        return first
    raise OSError(f"no {count} free ports in a row")


def main() -> None:
    """Serve until interrupted."""
    if missing():
        raise SystemExit(f"{', '.join(missing())} not found: {INSTALL}")
    for one in (signal.SIGINT, signal.SIGTERM):  # a shell's background has the first ignored
        signal.signal(one, signal.default_int_handler)
    with serve() as server:
        exports = "".join(f"export {name}={value}\n" for name, value in server.environment.items())
        bucket = server.make_bucket("lake")
        sys.stdout.write(f"{exports}# {bucket} is there; Ctrl-C ends the server and deletes what it holds\n")
        sys.stdout.flush()
        with suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    main()
