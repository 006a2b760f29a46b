"""Who is told of a night, what they are told, and that the address they are told at is told to nobody."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from pipeline.__main__ import main
from tests.pipeline.nights import Nights

NIGHT = "2026-11-02T05:00+00:00"
SECRET = "T0K3N-of-nobody"
BREAK = 'schedule.limits=[{job="dictionary",metric="l0",max=0.0}]'


class Hook:
    """A webhook on this machine that answers with the codes it is given, and keeps what it was told."""

    def __init__(self):
        self.told, self.paths, self.codes, hook = [], [], [], self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                hook.told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                hook.paths.append((self.path, self.headers["Content-Type"]))
                self.send_response(hook.codes.pop(0) if hook.codes else 200)
                self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/{SECRET}"
        self._thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self._thread.start()

    def close(self):
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()


@pytest.fixture
def hook(monkeypatch):
    hook = Hook()
    monkeypatch.setenv("NIGHTLY_HOOK", hook.url)
    monkeypatch.setattr("pipeline.alerts._PAUSE", 0.01)
    yield hook
    hook.close()


@pytest.fixture
def world(tmp_path, decoder):
    world = Nights(tmp_path, decoder, schedule='[schedule.alerts]\nwebhook = "$NIGHTLY_HOOK"')
    world.add("a", "the words of the first day")
    return world


def fail(world):
    """What makes the next night fail."""
    path = world.folder / "docs" / "a.jsonl"
    path.write_text(path.read_text().replace("words", "wards"))


def nowhere_told(folder):
    """That no file below the folder, but a recipe, holds the secret."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".toml"]
    assert files
    return not any(SECRET.encode() in path.read_bytes() for path in files)


class TestWebhook:
    def test_it_is_told_of_failures_only_unless_it_wants_all(self, world, hook):
        assert world.night(NIGHT) == 0
        assert hook.told == []
        assert world.night("2026-11-03T05:00+00:00", "schedule.alerts.on=always") == 0
        assert [one["status"] for one in hook.told] == ["done"]

    def test_what_it_is_told_of_a_failure(self, world, hook):
        world.night(NIGHT)
        fail(world)
        assert world.night("2026-11-03T05:00+00:00") == 2
        (told,), (entry,) = hook.told, [one for one in world.entries() if not one.good]
        assert (told["schedule"], told["status"], told["run"]) == ("nightly", "failed", entry.run)
        assert told["covers"] == ["2026-11-03T01:00:00+00:00"]
        assert "a.jsonl changed" in told["error"]
        assert told["report"] == f"runs/{entry.run}/report.md"
        assert told["text"].startswith("nightly nightly of 2026-11-03")
        assert hook.paths == [(f"/{SECRET}", "application/json")]

    def test_one_that_fails_is_tried_three_times_logged_and_changes_no_exit_code(self, world, hook, caplog):
        hook.codes = [500, 503, 500]
        assert world.night(NIGHT, "schedule.alerts.on=always") == 0
        assert len(hook.told) == 3
        assert "could not be posted to $NIGHTLY_HOOK: it answered 500" in caplog.text
        assert SECRET not in caplog.text

    def test_one_that_comes_to_itself_is_told_once_more_and_no_redirect_is_followed(self, world, hook, caplog):
        hook.codes = [302, 200]
        assert world.night(NIGHT, "schedule.alerts.on=always") == 0
        assert [path for path, _ in hook.paths] == [f"/{SECRET}"] * 2
        assert "could not be posted" not in caplog.text

    def test_a_variable_that_is_not_set_is_named(self, world, caplog, monkeypatch):
        monkeypatch.delenv("NIGHTLY_HOOK", raising=False)
        assert world.night(NIGHT, "schedule.alerts.on=always") == 0
        assert "$NIGHTLY_HOOK holds no http address" in caplog.text


class TestCommand:
    def test_it_reads_the_alert_and_its_failure_changes_no_exit_code(self, world, tmp_path, caplog):
        script = f"cat > {tmp_path / 'alert.json'}; exit 3"
        setting = f'schedule.alerts={{on="always",command=["sh","-c","{script}"]}}'
        assert world.night(NIGHT, setting) == 0
        assert json.loads((tmp_path / "alert.json").read_text())["status"] == "done"
        assert "the alert command sh ended with exit code 3" in caplog.text

    def test_one_that_is_not_there_is_logged(self, world, caplog):
        assert world.night(NIGHT, 'schedule.alerts={on="always",command=["/no/such/program"]}') == 0
        assert "/no/such/program could not be run: FileNotFoundError" in caplog.text


class TestSecrets:
    def test_an_address_in_the_environment_is_in_no_file_and_no_output(self, world, hook):
        process = world.start(NIGHT, "schedule.alerts.on=always", NIGHTLY_HOOK=hook.url)
        out, err = process.communicate(timeout=100)
        assert process.returncode == 0, err
        assert len(hook.told) == 1
        assert SECRET not in out + err
        assert nowhere_told(world.folder)

    def test_nor_is_one_in_the_recipe_be_it_unreachable(self, world, hook, capsys, caplog):
        text = world.recipe.read_text().replace("$NIGHTLY_HOOK", hook.url.replace("http:", "https:"))
        world.recipe.write_text(text + 'on = "always"\n')
        assert main(["nightly", str(world.recipe), "--now", NIGHT]) == 0
        assert main(["plan", str(world.recipe)]) == 0
        said = capsys.readouterr()
        assert "could not be posted to 127.0.0.1: URLError" in caplog.text
        assert SECRET not in said.out + said.err + caplog.text
        assert nowhere_told(world.folder)
        assert SECRET not in json.dumps(hook.told)
