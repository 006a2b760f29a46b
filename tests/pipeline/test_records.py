"""What a run leaves in `runs/`, and what `garner status` makes of it."""

import json
import logging

import pytest

from pipeline.__main__ import main
from pipeline.logs import JsonFormatter
from storage import Lake
from storage.lease import holders
from storage.runs import runs
from tests.pipeline import tiny
from tests.pipeline.test_follow import Gate, in_thread


@pytest.fixture
def recipe(decoder, texts, short_shards):
    return tiny.table(decoder, texts, unit=64, sites=["embed", "resid.1"]) | {"pool": {"kind": "local"}}


def the_run(opened):
    (run,) = runs(Lake(opened.lake).folder)
    return run


def test_a_run_leaves_who_when_what_and_how_fast(recipe, texts):
    cache, progress = tiny.harvest(recipe, texts)
    run = the_run(tiny.read(recipe, texts))
    record = run.record
    (step,) = record.steps
    assert run.folder.name.startswith(record.start.time[:10])
    assert "@" in record.start.owner
    assert (record.status, record.error) == ("done", "")
    assert (step.kind, step.folder, step.segments, step.rows) == ("cache", cache.id, (0,), cache.n_rows)
    assert step.tokens == progress.forward_tokens > 0
    assert step.workers == 1
    assert 0 < step.utilisation <= 1
    assert 0 < step.busy <= step.seconds <= record.seconds
    assert cache.record.made["owner"] == record.start.owner
    assert holders(run.folder.__class__(tiny.read(recipe, texts).lake)) == ()


def test_a_second_run_that_finds_nothing_to_do_leaves_no_record(recipe, texts):
    tiny.harvest(recipe, texts)
    tiny.harvest(recipe, texts)
    the_run(tiny.read(recipe, texts))


def test_a_run_that_fails_says_why_in_its_record(recipe, texts, monkeypatch):
    def broken(table, lake):
        raise OSError("planted: no such device")

    monkeypatch.setattr("pipeline.run.make_pool", broken)
    with pytest.raises(OSError, match="planted"):
        tiny.harvest(recipe, texts)
    record = the_run(tiny.read(recipe, texts)).record
    assert (record.status, record.error) == ("failed", "OSError: planted: no such device")


def test_a_run_keeps_its_log_as_json_lines(recipe, texts):
    logging.getLogger("pipeline").setLevel(logging.INFO)
    tiny.harvest(recipe, texts)
    kept = the_run(tiny.read(recipe, texts)).folder.read("log.jsonl").decode().splitlines()
    assert any("rows" in json.loads(line)["message"] for line in kept)
    assert {"time", "level", "logger", "message"} <= json.loads(kept[0]).keys()


def test_a_line_of_the_json_log_holds_the_fields_of_its_call():
    record = logging.makeLogRecord({"name": "pipeline.x", "levelname": "INFO", "msg": "%d rows", "args": (3,)})
    record.fields = {"unit": 3, "reason": "died"}
    line = json.loads(JsonFormatter().format(record))
    assert (line["message"], line["level"], line["unit"], line["reason"]) == ("3 rows", "info", 3, "died")


def test_status_tells_what_the_last_run_came_to(recipe, texts, capsys):
    path = tiny.write_recipe(recipe, texts)
    assert main(["run", path]) == 0
    capsys.readouterr()
    assert main(["status", path]) == 0
    said = capsys.readouterr().out
    assert "done in" in said
    assert "tokens/s, 1 workers" in said
    assert "% busy" in said


def test_status_watches_a_run_until_it_ends(recipe, texts, capsys, monkeypatch):
    gate, opened = Gate(), tiny.read(recipe, texts)
    path = tiny.write_recipe(recipe, texts)
    monkeypatch.setattr("pipeline.run.make_pool", lambda table, lake: gate)
    _, thread = in_thread(opened)
    assert gate.reached.wait(60)
    real = gate.open.set
    monkeypatch.setattr("pipeline.watch.time.sleep", lambda seconds: real())
    assert main(["status", path, "--watch"]) == 0
    thread.join()
    said = capsys.readouterr().out.splitlines()
    assert " rows" in said[0]
    assert " of " in said[0]
    assert any("done in" in line for line in said)


def test_status_watch_without_any_run_says_so(recipe, texts, capsys):
    assert main(["status", tiny.write_recipe(recipe, texts), "--watch"]) == 0
    assert "no run of this recipe was begun yet" in capsys.readouterr().out
