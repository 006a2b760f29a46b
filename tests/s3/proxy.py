"""A proxy before an S3 server that counts requests and spoils those it is told to: each fault as a client sees it."""

import http.client
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import assert_never
from urllib.parse import urlsplit

_PIECE = 2**18
_OWN_HEADERS = {"connection", "expect", "keep-alive", "transfer-encoding", "content-length"}
"""What each of the two connections says for itself."""


@dataclass(frozen=True)
class SlowDown:
    """503 and S3's own word for too many requests; the server never hears of this one."""


@dataclass(frozen=True)
class Hang:
    """No answer for a while, and then none at all."""

    seconds: float


@dataclass(frozen=True)
class Refuse:
    """The connection closed before the server hears of the request."""


@dataclass(frozen=True)
class Lose:
    """The connection closed after the server has done what was asked, instead of its answer."""


@dataclass(frozen=True)
class Cut:
    """The connection closed after so many bytes of the answer's body."""

    after: int


@dataclass(frozen=True)
class Shorten:
    """An answer that calls the first bytes of a body the whole of it."""

    to: int


Fault = SlowDown | Hang | Refuse | Lose | Cut | Shorten
Choose = Callable[[str], Fault | None]
"""From `METHOD /path?query` to what shall go wrong with it, if anything."""


def scripted(*faults: Fault, on: str = "") -> Choose:
    """Each fault once, in order, on the next request in which the pattern `on` is found (`PUT`, `GET .*c\\.0\\.0`)."""
    left, lock = list(faults), threading.Lock()

    def choose(request: str) -> Fault | None:
        with lock:
            return left.pop(0) if left and re.search(on, request) else None

    return choose


def stormy(share: float, seed: int = 0, hang: float = 1.0) -> Choose:
    """That share of all requests spoilt, each in some way."""
    dice, lock = random.Random(seed), threading.Lock()
    ways = (SlowDown(), Hang(hang), Refuse(), Lose(), Cut(100))

    def choose(request: str) -> Fault | None:
        with lock:
            return dice.choice(ways) if dice.random() < share else None

    return choose


class Proxy:
    """One that is listening; `choose` may be set at any time."""

    def __init__(self, upstream: str, latency: float = 0.0) -> None:
        self.upstream, self.latency = urlsplit(upstream).netloc, latency
        self.choose: Choose = scripted()
        self.requests: list[str] = []
        self.spoilt: list[Fault] = []
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.proxy = self
        self._port = self._server.server_port

    @property
    def endpoint(self) -> str:
        """What clients are given instead of the server's."""
        return f"http://127.0.0.1:{self._port}"

    def count(self, pattern: str) -> int:
        """How many requests had that in `METHOD /path?query`."""
        return sum(1 for request in self.requests if re.search(pattern, request))

    def note(self, request: str) -> Fault | None:
        """Remember a request; what shall go wrong with it."""
        self.requests.append(request)
        fault = self.choose(request)
        self.spoilt += [fault] if fault else []
        return fault

    def start(self) -> None:
        """Listen, in a thread of its own."""
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """Hear nothing more: new connections are refused, open ones closed."""
        self._server.shutdown()
        self._server.server_close()
        self._server.drop()

    @contextmanager
    def down(self) -> Iterator[None]:
        """Nothing listens within the block; the same port does after it."""
        self.stop()
        yield
        self._server = _Server(("127.0.0.1", self._port), _Handler)
        self._server.proxy = self
        self.start()


@contextmanager
def proxied(upstream: str, latency: float = 0.0) -> Iterator[Proxy]:
    """A proxy before that endpoint, which adds `latency` seconds to every request."""
    proxy = Proxy(upstream, latency)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()


class _Server(ThreadingHTTPServer):
    """Knows its proxy, and its open connections, so that they can be dropped."""

    daemon_threads = True
    request_queue_size = 128
    proxy: Proxy

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, handler)
        self.open = set[object]()

    def process_request(self, request, client_address):
        self.open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request):
        self.open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request, client_address):
        """A client that went away is none of our concern."""

    def drop(self) -> None:
        for request in list(self.open):
            with suppress(OSError):
                request.shutdown(2)


class _Handler(BaseHTTPRequestHandler):
    """One client's connection, kept alive, and one to the server behind it."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self):
        super().setup()
        self.behind = http.client.HTTPConnection(self.server.proxy.upstream)

    def finish(self):
        self.behind.close()
        super().finish()

    def pass_on(self):
        """One request there and its answer back, unless something shall go wrong."""
        proxy = self.server.proxy
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        if len(body) < length:  # its client died: a server that heard it itself would refuse it
            self.close_connection = True
            return
        fault = proxy.note(f"{self.command} {self.path}")
        time.sleep(proxy.latency)
        match fault:
            case SlowDown():
                self.slow_down()
            case Hang(seconds):
                time.sleep(seconds)
                self.close_connection = True
            case Refuse():
                self.close_connection = True
            case Lose():
                self.ask(body).read()
                self.close_connection = True
            case Cut(after):
                self.answer(self.ask(body), after)
                self.close_connection = True
            case Shorten(to):
                self.shorten(self.ask(body), to)
            case None:
                self.answer(self.ask(body), None)
            case _:
                assert_never(fault)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = pass_on

    def ask(self, body):
        """The server's answer; headers as they came, for they are signed."""
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _OWN_HEADERS}
        length = {"Content-Length": str(len(body))} if "Content-Length" in self.headers else {}
        self.behind.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in (headers | length).items():
            self.behind.putheader(name, value)
        self.behind.endheaders(body)
        return self.behind.getresponse()

    def answer(self, response, after):
        """The whole answer, or its head and the first bytes of its body."""
        self.send_response_only(response.status, response.reason)
        for name, value in response.getheaders():
            if name.lower() not in _OWN_HEADERS:
                self.send_header(name, value)
        if (
            not response.length
        ):  # it is not known before the end, or there is no body; read, or nothing more can be asked
            whole = response.read()
            self.send_header("Content-Length", response.getheader("Content-Length", str(len(whole))))
            self.end_headers()
            self.wfile.write(whole[:after])
            return
        self.send_header("Content-Length", response.getheader("Content-Length", str(response.length)))
        self.end_headers()
        left = response.length if after is None else after
        while left and (piece := response.read(min(left, _PIECE))):
            self.wfile.write(piece)
            left -= len(piece)

    def shorten(self, response, to):
        """Without the checksums that would give it away."""
        body = response.read()[:to]
        self.send_response_only(response.status, response.reason)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def slow_down(self):
        """As S3 and Ceph word it."""
        body = b"" if self.command == "HEAD" else b"<?xml version='1.0'?><Error><Code>SlowDown</Code></Error>"
        self.send_response_only(503, "Slow Down")
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):
        """Counted, not printed."""
