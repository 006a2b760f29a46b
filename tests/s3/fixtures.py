"""An S3 server for the session, a bucket for a test, and a proxy that spoils what the test says."""

import itertools
import os

import fsspec
import pytest

from tests.s3.proxy import proxied
from tests.s3.server import INSTALL, missing, serve

_numbers = itertools.count()


@pytest.fixture(scope="session")
def s3_server():
    """The server, which S3 clients of this process and of those below it find through their environment."""
    if missing() and os.environ.get("GARNER_REQUIRE_S3") == "1":
        pytest.fail(f"GARNER_REQUIRE_S3=1, and {', '.join(missing())} not found: {INSTALL}")
    if missing():
        pytest.skip(f"{', '.join(missing())} not found; to run these tests: {INSTALL}")
    s3 = fsspec.get_filesystem_class("s3")
    with serve() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        s3.clear_instance_cache()  # instances keep the endpoint that they saw first
        server.make_bucket("first")
        fsspec.filesystem("s3").pipe_file("s3://first/object", b"")  # makes the pool, which takes the gateway seconds
        yield server
        s3.clear_instance_cache()


@pytest.fixture
def bucket(s3_server) -> str:
    """The URL of a bucket of the test's own."""
    return s3_server.make_bucket(f"bucket-{next(_numbers)}")


@pytest.fixture
def proxy(s3_server, monkeypatch):
    """A proxy that all clients go through, of this process and of those below it."""
    with proxied(s3_server.endpoint) as proxy:
        monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": proxy.endpoint})
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        yield proxy


@pytest.fixture
def hasty(proxy, monkeypatch):
    """Clients that take a second without an answer for a time-out; a busy server may look dead to them."""
    options = {"endpoint_url": proxy.endpoint, "config_kwargs": {"read_timeout": 1}}
    monkeypatch.setitem(fsspec.config.conf, "s3", options)
