"""A head that starts as in ray_cluster.yaml opens what docs/cluster.md says, and no more."""

import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml

from tests.deploy.pins import ROOT

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/net")]

LOOPBACK, EVERYWHERE = "0100007F", {"00000000", "0" * 32}
"""As /proc/net/tcp writes them."""
RAY = Path(sys.executable).with_name("ray")
JOIN = """
import ray
try:
    ray.init(address="{address}", log_to_driver=False, logging_level="ERROR")
except ConnectionError:
    raise SystemExit(7)
"""


class Head:
    """A head of its own, with a home of its own."""

    def __init__(self, folder: Path) -> None:
        self.gcs, self.dashboard, self.metrics, client, agent = _free_ports(5)
        self.env = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        self.env |= {"HOME": str(folder), "RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"}
        subprocess.run([RAY, "get-auth-token", "--generate"], env=self.env, check=True, capture_output=True)
        self.token_file = folder / ".ray" / "auth_token"
        self.token_mode = stat.S_IMODE(self.token_file.stat().st_mode)
        self.token_file.chmod(0o600)
        own = [f"--port={self.gcs}", f"--dashboard-port={self.dashboard}", f"--metrics-export-port={self.metrics}"]
        own += [f"--ray-client-server-port={client}", f"--dashboard-agent-listen-port={agent}"]
        more = ["--object-store-memory=100000000", f"--temp-dir={folder / 'ray'}", "--block"]
        command = [RAY, "start", "--head", *_flags(), *own, *more]
        self.log = folder / "log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, env=self.env, stdout=log, stderr=log)

    def end(self) -> None:
        """Ray ends what it started when it is asked to end."""
        self.process.terminate()
        self.process.wait(60)

    def get(self, token: str | None = None) -> int:
        """The status of the dashboard's answer."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        request = urllib.request.Request(f"http://127.0.0.1:{self.dashboard}/api/jobs/", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    def wait(self) -> None:
        """Until it is up."""
        for _ in range(240):
            assert self.process.poll() is None, self.log.read_text()
            if "Ray runtime started" in self.log.read_text() and listeners(self.metrics):
                return
            time.sleep(0.5)
        raise AssertionError(self.log.read_text())


def _flags() -> list[str]:
    """What the cluster file says, but for what one machine cannot have twice."""
    command = yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())["head_start_ray_commands"][-1]
    ours = ("--port", "--metrics-export-port", "--autoscaling-config")
    return [flag for flag in re.findall(r"--[a-z-]+=\S+", command) if not flag.startswith(ours)]


def _free_ports(n: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def listeners(port: int) -> set[str]:
    """The addresses on which something listens at this port."""
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    local = [row[1].split(":") for row in rows if row[3] == "0A"]
    return {address for address, number in local if int(number, 16) == port}


@pytest.fixture(scope="module")
def head():
    folder = Path(tempfile.mkdtemp(prefix="garner-"))  # a short path: Ray's sockets lie in it
    head = Head(folder)
    try:
        head.wait()
        yield head
    finally:
        head.end()
        shutil.rmtree(folder, ignore_errors=True)


def test_the_dashboard_listens_on_loopback_alone_and_the_rest_on_every_interface(head):
    assert listeners(head.dashboard) == {LOOPBACK}
    assert listeners(head.gcs) & EVERYWHERE
    assert listeners(head.metrics) & EVERYWHERE


def test_the_dashboard_answers_nobody_without_the_token(head):
    assert head.get() == 401
    assert head.get("0" * 64) == 403
    assert head.get(head.token_file.read_text().strip()) == 200


def test_metrics_are_read_without_a_token(head):
    with urllib.request.urlopen(f"http://127.0.0.1:{head.metrics}/metrics", timeout=30) as answer:
        assert b"ray_" in answer.read()


def test_ray_leaves_its_token_file_readable_to_others_unless_the_umask_forbids(head, tmp_path):
    assert head.token_mode == 0o666 & ~_umask()
    env = head.env | {"HOME": str(tmp_path)}
    subprocess.run(
        ["sh", "-c", f"umask 077; '{RAY}' get-auth-token --generate"], env=env, check=True, capture_output=True
    )
    assert stat.S_IMODE((tmp_path / ".ray" / "auth_token").stat().st_mode) == 0o600


def test_a_driver_without_the_token_is_not_let_in(head):
    script = JOIN.format(address=f"127.0.0.1:{head.gcs}")
    joined = [sys.executable, "-c", script]
    assert subprocess.run(joined, env=head.env, capture_output=True, timeout=120).returncode == 0
    others = head.env | {"RAY_AUTH_MODE": "disabled"}
    assert subprocess.run(joined, env=others, capture_output=True, timeout=120).returncode == 7


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
