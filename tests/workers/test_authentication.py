"""Whether Ray asks for a token is decided by garner and said explicitly, never left to Ray's defaults."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from storage.errors import InputError
from workers.ray_environment import decide, find_token

ROOT = Path(__file__).parents[2]
LOCAL = """
import json, os, sys
from pipeline.pools import make_pool
from pipeline.recipe import PoolTable

make_pool(PoolTable(workers=1), sys.argv[1])
import ray

token = os.environ["RAY_AUTH_TOKEN"]
print(json.dumps([os.environ["RAY_AUTH_MODE"], token, ray.get_runtime_context().gcs_address]), flush=True)
input()
"""
CLIENT = "import ray, sys; ray.init(address=sys.argv[1], logging_level='ERROR'); print('let in')"


def environment(home, **more):
    """Nothing of Ray's, and an empty home."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return kept | {"HOME": str(home), "PYTHONPATH": str(ROOT), "RAY_memory_monitor_refresh_ms": "0"} | more


@pytest.fixture
def clean(monkeypatch, tmp_path):
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "kept")  # so that what `decide` sets is taken back
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def cluster():
    """The address of something that listens, as far as a first look goes."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def keep(home, token):
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text(token)


@pytest.mark.ray
@pytest.mark.slow
def test_a_ray_of_our_own_asks_for_a_token_that_nobody_else_has(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", LOCAL, str(tmp_path / "lake")],
        env=environment(tmp_path),
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as driver:
        mode, token, address = json.loads(driver.stdout.readline())
        stranger = environment(tmp_path, RAY_AUTH_MODE="disabled", RAY_NUM_REDIS_GET_RETRIES="2")
        guess = stranger | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
        friend = guess | {"RAY_AUTH_TOKEN": token}
        said = [client(one, address) for one in (stranger, guess, friend)]
        out, error = driver.communicate("\n", timeout=60)
    assert mode == "token"
    assert len(token) == 64
    assert [answer.stdout for answer in said] == ["", "", "let in\n"]
    assert all("Authentication token is missing or incorrect" in answer.stderr for answer in said[:2])
    assert (out, error) == ("", "")
    assert not (tmp_path / ".ray").exists()


def client(env, address):
    return subprocess.run(
        [sys.executable, "-c", CLIENT, address], env=env, capture_output=True, text=True, timeout=120, check=False
    )


def test_two_rays_of_our_own_never_share_a_token(clean, monkeypatch):
    decide("local")
    first = os.environ["RAY_AUTH_TOKEN"]
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    decide("local")
    assert os.environ["RAY_AUTH_TOKEN"] != first


def test_what_the_user_says_about_a_local_ray_stands(clean, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    decide("local")
    assert os.environ["RAY_AUTH_MODE"] == "disabled"
    assert "RAY_AUTH_TOKEN" not in os.environ


def test_a_cluster_gets_the_token_where_there_is_one(clean, cluster):
    keep(clean, "the-token")
    decide(cluster)
    assert os.environ["RAY_AUTH_MODE"] == "token"


def test_a_cluster_without_a_token_is_joined_openly_and_with_a_warning_unless_it_is_here(clean, cluster, caplog):
    decide(cluster)
    assert os.environ["RAY_AUTH_MODE"] == "disabled"
    assert not caplog.text
    del os.environ["RAY_AUTH_MODE"]
    decide("auto")
    assert os.environ["RAY_AUTH_MODE"] == "disabled"
    assert "anyone who reaches its ports can run code there" in caplog.text


def test_a_mode_of_token_without_a_token_is_refused(clean, cluster, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with pytest.raises(InputError, match="there is no token: set RAY_AUTH_TOKEN"):
        decide(cluster)


def test_a_mode_that_ray_does_not_have_is_refused(clean, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "on")
    with pytest.raises(InputError, match="RAY_AUTH_MODE is 'on': set it to token or disabled"):
        decide("local")


def test_the_token_is_looked_for_where_ray_looks_in_its_order(clean, monkeypatch):
    assert find_token() is None
    keep(clean, "of the home folder\n")
    assert find_token().secret == "of the home folder"
    (clean / "named").write_text("of a named file\n")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(clean / "named"))
    assert find_token().secret == "of a named file"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of the environment")
    assert find_token().secret == "of the environment"


def test_a_token_is_not_in_its_own_repr(clean, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "hush-hush")
    assert "hush-hush" not in repr(find_token())


@pytest.mark.parametrize("content", [None, " \n", b"\xff\xfe"])
def test_a_named_token_file_without_a_token_is_refused(clean, monkeypatch, content):
    file = clean / "named"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(file))
    with pytest.raises(InputError, match=r"holds no token|cannot be read"):
        find_token()


def test_a_cluster_that_is_not_there_is_refused_within_seconds(clean):
    start = time.monotonic()
    with pytest.raises(InputError, match=r'pool\.address = "127\.0\.0\.1:1": nothing answers there'):
        decide("127.0.0.1:1")
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("address", ["ray://head:10001", "http://head:8265", "head", "head:port", "head:99999"])
def test_an_address_that_is_none_of_a_cluster_is_refused(clean, address):
    with pytest.raises(InputError, match=r'write "local", "auto", or host:port'):
        decide(address)
