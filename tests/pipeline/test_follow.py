"""Two teams, one lake, the same request at once: forward passes are paid once, and nobody waits for the dead."""

import subprocess
import sys
import threading
import time

import pytest

from pipeline.follow import harvesting
from pipeline.progress import Progress
from pipeline.run import run
from storage import Lake
from storage.runs import runs
from tests.pipeline import tiny
from workers.harvest import UnitTask
from workers.pool import NEEDS, LocalPool


@pytest.fixture
def recipe(decoder, texts, short_shards):
    return tiny.table(decoder, texts, unit=64, sites=["embed", "resid.1"])


class Gate(LocalPool):
    """The local pool, which says when its first unit is done and then waits to be let on."""

    def __init__(self):
        super().__init__()
        self.reached, self.open = threading.Event(), threading.Event()

    def map(self, make, tasks, needs=NEEDS):
        for receipt in super().map(make, tasks, needs):
            if tasks and isinstance(tasks[0], UnitTask):
                self.reached.set()
                assert self.open.wait(60)
            yield receipt


def in_thread(opened):
    """The progress of a run in a thread of its own, and the thread."""
    progress = Progress(live=False)
    thread = threading.Thread(target=run, args=(opened, progress))
    thread.start()
    return progress, thread


def test_the_second_follows_the_first_and_does_no_forward_pass(recipe, texts, monkeypatch, caplog):
    gate, opened = Gate(), tiny.read(recipe, texts)
    monkeypatch.setattr("pipeline.run.make_pool", lambda table, lake: gate)
    first, leader = in_thread(opened)
    assert gate.reached.wait(60)
    monkeypatch.setattr("pipeline.run.make_pool", lambda table, lake: LocalPool())
    caplog.set_level("INFO")
    second, follower = in_thread(opened)
    deadline = time.monotonic() + 30
    while "is being harvested by" not in caplog.text and time.monotonic() < deadline:
        time.sleep(0.05)
    assert "units of segment 0 are done; waiting for it" in caplog.text
    gate.open.set()
    leader.join()
    follower.join()
    lake = Lake(opened.lake)
    assert len(lake.caches()) == 1
    assert first.forward_tokens > 0
    assert second.forward_tokens == 0
    steps = [step for one in runs(lake.folder) for step in one.record.steps]
    assert {step.folder for step in steps} == set(lake.caches())
    assert sorted(step.tokens > 0 for step in steps) == [False, True]


HARVESTS = """
import sys, time
from pipeline.follow import harvesting
from storage import Lake
with harvesting(Lake(sys.argv[1]), sys.argv[2]):
    print("held", flush=True)
    time.sleep(600)
"""


def test_the_second_takes_over_when_the_first_dies(recipe, texts):
    opened = tiny.read(recipe, texts)
    cache, _ = tiny.harvest(recipe | {"lake": "elsewhere"}, texts)
    words = [sys.executable, "-c", HARVESTS, opened.lake, cache.id]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as leader:
        assert leader.stdout.readline() == "held\n"
        progress, follower = in_thread(opened)
        time.sleep(1)
        assert follower.is_alive()
        assert progress.forward_tokens == 0
        leader.kill()
    follower.join(60)
    assert Lake(opened.lake).cache(cache.id).n_rows == cache.n_rows
    assert progress.forward_tokens > 0


def test_a_harvest_that_fails_lets_the_next_go_on_at_once(recipe, texts):
    lake = Lake(tiny.read(recipe, texts).lake)
    with pytest.raises(RuntimeError, match="planted"), harvesting(lake, "tiny.docs-0"):
        raise RuntimeError("planted")
    with harvesting(lake, "tiny.docs-0") as lease:
        assert lease.term == 2
