"""What keeps a cluster from being joined is said within seconds, and plainly."""

import http.server
import socket
import threading
import time

import pytest

from storage import InputError
from tests.workers.head import running_head

pytestmark = pytest.mark.ray

TOKEN = "a-token-of-the-cluster" * 3


@pytest.fixture(scope="module")
def head():
    with running_head(TOKEN) as one:
        yield f"127.0.0.1:{one.port}"


@pytest.fixture
def knock(local_ray, monkeypatch):
    """Asks at a door with a token or without."""
    from workers.connect import knock

    def ask(address, token=None):
        monkeypatch.setenv("RAY_AUTH_MODE", "token" if token else "disabled")
        monkeypatch.setenv("RAY_AUTH_TOKEN", token or "")
        knock(address)

    return ask


def test_the_right_token_is_let_in(head, knock):
    knock(head, TOKEN)


def test_a_wrong_token_is_refused_by_where_it_was_found(head, knock):
    with pytest.raises(InputError, match="asks for another token than the one in RAY_AUTH_TOKEN: set") as caught:
        knock(head, "another-token" * 4)
    assert "another-token" not in str(caught.value)


def test_no_token_is_refused(head, knock):
    with pytest.raises(InputError, match=r"asks for a token, and none was sent: set RAY_AUTH_TOKEN"):
        knock(head)


def test_a_listener_that_says_nothing_is_not_waited_for(knock):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        started = time.monotonic()
        with pytest.raises(InputError, match=f'"{address}": something listens there but does not answer as a Ray head'):
            knock(address)
    assert time.monotonic() - started < 10


def test_a_web_server_is_not_a_head(knock):
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(InputError, match="give the port of the head itself"):
            knock(f"127.0.0.1:{server.server_port}")
        server.shutdown()
