"""Jobs on a real head that asks for a token: sent, followed, found again, and what they end with."""

import itertools
import logging
import os
import signal
import socket
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import ClassVar

import pytest

from pipeline.__main__ import main
from pipeline.commands.submit import _follow
from storage import Lake
from storage.errors import InputError, RunError
from tests.pipeline import tiny
from tests.pipeline.worlds import HARVEST, World
from tests.workers.head import running_head
from workers import submission
from workers.submission import connect, job_server

pytestmark = [pytest.mark.ray, pytest.mark.slow]

TOKEN = "0123456789abcdef" * 4
_numbers = itertools.count()


@pytest.fixture(scope="module")
def head():
    with running_head(TOKEN) as one:
        yield one


@pytest.fixture(autouse=True)
def _with_the_token(monkeypatch):
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")  # what is named on the command line goes first


@pytest.fixture
def jobs(head):
    return connect(head.url)


def shell(jobs, command, name=None):
    """A job of one shell command."""
    return jobs._client.submit_job(entrypoint=command, submission_id=name or f"shell-{next(_numbers)}")


def world(folder, model=None):
    made = World(folder, model or tiny.save_decoder(folder / "made"))
    made.recipe.write_text(HARVEST)
    return made


def submit(world, url, *more):
    settings = ("--set", "pool.kind=ray", "--set", "pool.workers=1", "--shared-disk")
    return main(["submit", str(world.recipe), "--address", url, *settings, *more])


class Relay:
    """A way to the head that can be cut: what goes through it is broken off, and nothing is let in until it heals."""

    def __init__(self, port):
        self._to, self._open, self._pairs = port, True, []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, seconds):
        self._open = False
        for one in self._pairs:
            _close(one)
        threading.Timer(seconds, lambda: setattr(self, "_open", True)).start()

    def close(self):
        for one in (self._server, *self._pairs):
            _close(one)

    def _accept(self):
        with suppress(OSError):
            while True:
                here, _ = self._server.accept()
                if not self._open:
                    here.close()
                    continue
                there = socket.create_connection(("127.0.0.1", self._to))
                self._pairs += [here, there]
                for pair in ((here, there), (there, here)):
                    threading.Thread(target=_carry, args=pair, daemon=True).start()


def _close(one):
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()


def _carry(one, other):
    with suppress(OSError):
        while data := one.recv(65536):
            other.sendall(data)
    _close(other)


@pytest.fixture
def relay(head):
    one = Relay(head.dashboard)
    yield one
    one.close()


def test_a_recipe_is_harvested_there_and_its_log_is_here(head, jobs, tmp_path, capfd, caplog):
    caplog.set_level(logging.INFO)
    here = world(tmp_path)
    assert submit(here, head.url, "--no-wait") == 0
    assert submit(here, head.url) == 0
    (job,) = [job for job in jobs._client.list_jobs() if job.submission_id.startswith("garner-recipe-")]
    assert "is under way: following it" in caplog.text
    out = capfd.readouterr().out
    assert out == jobs._client.get_job_logs(job.submission_id)
    assert f"code {job.metadata['code']}, commit" in out
    (name,) = Lake(str(here.lake)).caches()
    assert Lake(str(here.lake)).cache(name).site("resid.0").shape[0] > 0

    assert submit(here, head.url) == 0
    assert "nothing is missing: nothing was sent" in capfd.readouterr().out
    assert len(jobs.attempts(job.submission_id)) == 1

    assert TOKEN not in f"{jobs._client.list_jobs()!r} {caplog.text} {out}"
    kept = [file for file in (*head.folder.rglob("*"), *here.lake.rglob("*")) if file.is_file()]
    assert len(kept) > 100
    assert not [file for file in kept if TOKEN.encode() in file.read_bytes()]


def test_a_run_that_fails_there_ends_with_its_exit_code_here_and_is_sent_anew(head, jobs, tmp_path, capfd):
    import torch
    from transformers import GPT2Model

    model = GPT2Model.from_pretrained(tiny.save_decoder(tmp_path / "whole"))
    with torch.no_grad():
        model.wte.weight[:] = float("nan")
    model.save_pretrained(tmp_path / "broken")
    tiny.save_tokenizer(tmp_path / "broken")
    here = world(tmp_path, tmp_path / "broken")
    assert submit(here, head.url, "--id", "broken") == 1
    assert "nonfinite" in capfd.readouterr().out
    assert submit(here, head.url, "--id", "broken", "--no-wait") == 0
    assert jobs.running("broken") == "broken-2"
    jobs._client.stop_job("broken-2")


def test_a_recipe_that_would_not_plan_is_never_sent(head, jobs, tmp_path, capfd):
    here = world(tmp_path)
    assert submit(here, head.url, "--id", "hopeless", "--set", 'caches.tiny.sites=["resid.99"]') == 2
    assert "resid.99" in capfd.readouterr().err
    assert jobs.attempts("hopeless") == {}


def test_each_end_of_a_job_is_told_apart(jobs):
    lines = []
    assert jobs.follow(shell(jobs, "echo all is well"), lines.append) == 0
    assert "".join(lines).endswith("all is well\n")
    assert jobs.follow(shell(jobs, "exit 2"), lines.append) == 2
    for command, why in (("kill -9 $$", "was killed"), ("nowhere", "no `python`"), ("exit 7", "exit code 7")):
        with pytest.raises(RunError, match=why):
            jobs.follow(shell(jobs, command), lines.append)
    stopped = shell(jobs, "sleep 60")
    jobs._client.stop_job(stopped)
    with pytest.raises(RunError, match="was stopped; the same command goes on"):
        jobs.follow(stopped, lines.append)


def test_a_lost_connection_loses_and_repeats_no_line(jobs, relay, caplog):
    job, lines = shell(jobs, "for n in 1 2 3 4 5 6 7 8 9; do echo line $n; sleep 1; done"), []
    threading.Timer(2.5, relay.cut, [4]).start()
    assert connect(relay.url).follow(job, lines.append) == 0
    assert "".join(lines) == jobs._client.get_job_logs(job)
    assert caplog.text.count("does not answer; the job goes on there") == 1


@pytest.fixture
def interruptible():
    """Ctrl-C as it is at a terminal; a shell without job control starts what runs in its background deaf to it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_leaves_the_job_alone_and_says_how_to_stop_it(head, jobs, capfd):
    job = shell(jobs, "sleep 20")
    threading.Timer(1.5, os.kill, [os.getpid(), signal.SIGINT]).start()
    assert _follow(jobs, job, head.url) == 130
    assert f"RAY_AUTH_MODE=token ray job stop --address {head.url} {job}" in capfd.readouterr().err
    assert not jobs._client.get_job_status(job).is_terminal()
    jobs._client.stop_job(job)


def test_a_head_that_stays_away_ends_the_following(jobs, relay, monkeypatch):
    monkeypatch.setattr(submission, "_GIVE_UP", 2.0)
    job = shell(jobs, "sleep 20")
    threading.Timer(1.5, relay.cut, [60]).start()
    with pytest.raises(RunError, match="may go on there: the same command finds it again"):
        connect(relay.url).follow(job, lambda text: None)
    jobs._client.stop_job(job)


def test_a_head_that_knows_the_job_no_more_says_so(jobs):
    with pytest.raises(RunError, match="knows no job long-gone: its head was started anew"):
        jobs.follow("long-gone", lambda text: None)


def test_attempts_are_counted_and_only_one_is_under_way(jobs, tmp_path):
    for command, name in (
        ("exit 1", "night"),
        ("exit 0", "night-2"),
        ("exit 0", "night-shift"),
        ("sleep 30", "night-3"),
    ):
        job = shell(jobs, command, name)
        if command != "sleep 30":
            with suppress(RunError):
                jobs.follow(job, lambda text: None)
    assert sorted(jobs.attempts("night")) == [1, 2, 3]
    assert jobs.running("night") == "night-3"
    jobs._client.stop_job("night-3")
    while jobs.running("night"):
        time.sleep(0.2)
    (tmp_path / "empty").mkdir()
    assert jobs.submit("night", tmp_path / "empty", {}) == "night-4"


def test_a_name_that_another_has_just_taken_is_followed(jobs, tmp_path, monkeypatch):
    taken = shell(jobs, "echo theirs", "taken")
    monkeypatch.setattr(jobs, "attempts", lambda name: {})
    (tmp_path / "empty").mkdir()
    assert jobs.submit("taken", tmp_path / "empty", {}) == taken


def test_a_wrong_or_missing_token_is_refused_at_once_and_never_shown(head, tmp_path, monkeypatch, capfd):
    here, start = world(tmp_path), time.monotonic()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_TOKEN", "the-wrong-one")
    assert submit(here, head.url) == 2
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    assert submit(here, head.url) == 2
    (tmp_path / "token").write_text("an-old-one\n")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    assert submit(here, head.url) == 2
    assert time.monotonic() - start < 10
    said = "".join(capfd.readouterr())
    assert "refuses the token from RAY_AUTH_TOKEN:" in said
    assert "asks for a token, and there is none: set RAY_AUTH_TOKEN" in said
    assert f"refuses the token from {tmp_path / 'token'}:" in said
    assert "the-wrong-one" not in said
    assert "an-old-one" not in said


def test_a_token_in_the_users_own_file_is_found(head, tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text(TOKEN + "\n")
    assert connect(head.url).attempts("nothing-of-that-name") == {}


def test_a_mode_of_disabled_keeps_the_token_at_home(head, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(InputError, match="RAY_AUTH_MODE=disabled keeps it from being used"):
        connect(head.url)


def test_a_token_that_leaves_this_machine_in_clear_draws_a_warning(head, caplog):
    connect(f"http://0.0.0.0:{head.dashboard}")  # this machine, by a name that is not the loopback's
    assert "in clear: use https, or an SSH tunnel" in caplog.text


class Open(BaseHTTPRequestHandler):
    """What a head without authentication says to anyone; keeps the headers that it was sent."""

    heard: ClassVar[list[str]] = []

    def do_GET(self):
        self.heard.append(str(self.headers))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"ray_version": "2.60.0"}')

    def log_message(self, *what):
        pass


def test_an_open_cluster_is_warned_of_and_gets_no_token(caplog):
    with HTTPServer(("127.0.0.1", 0), Open) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        connect(f"http://127.0.0.1:{server.server_port}")
        assert not caplog.text
        connect(f"http://0.0.0.0:{server.server_port}")
        server.shutdown()
    assert "IS OPEN: it asks for no token" in caplog.text
    assert not [one for one in Open.heard if TOKEN in one]


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("127.0.0.1:8265", "http://127.0.0.1:8265"),
        ("head:8265", "http://head:8265"),
        ("https://ray.example.org/", "https://ray.example.org"),
        ("http://[::1]:8265", "http://[::1]:8265"),
    ],
)
def test_an_address_may_lack_its_scheme(address, url):
    assert job_server(address) == url


@pytest.mark.parametrize("address", ["ray://head:10001", "auto", "local", "head", "head:port", "ftp://head:1", ""])
def test_an_address_of_no_job_server_is_refused_with_advice(address):
    with pytest.raises(InputError, match="name the cluster's job server, for instance http"):
        job_server(address)


def test_a_password_in_an_address_is_refused_unseen():
    with pytest.raises(InputError, match="holds a user name or a password") as caught:
        job_server("http://me:hunter2@head:8265")
    assert "hunter2" not in str(caught.value)


def test_an_address_where_nothing_or_something_else_answers_is_refused_within_seconds():
    start = time.monotonic()
    with pytest.raises(InputError, match=r"no job server answers at http://127\.0\.0\.1:1 "):
        connect("http://127.0.0.1:1")
    with socket.create_server(("127.0.0.1", 0)) as mute, pytest.raises(InputError, match="no job server answers"):
        connect(f"http://127.0.0.1:{mute.getsockname()[1]}")
    assert time.monotonic() - start < 15
