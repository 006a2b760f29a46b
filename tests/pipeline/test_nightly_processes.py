"""`garner nightly` as timers call it: processes that meet, are killed, run out of time, or are told to stop."""

import os
import signal
import time
from pathlib import Path

import msgspec
import pytest

from storage.lease import Holder
from storage.value import decode_signed, signed
from tests.pipeline.nights import SAE, Nights

NIGHT = "2026-11-02T05:00+00:00"
FOREVER = "jobs.dictionary.epochs=1000000"

pytestmark = pytest.mark.slow


@pytest.fixture
def world(tmp_path, decoder):
    world = Nights(tmp_path, decoder, tables=SAE)
    world.add("a", *(f"document {n} of the first night" for n in range(40)))
    return world


@pytest.fixture
def training(world):
    """Starts a night that goes on for ever, and gives its process once its harvest is done."""
    started = []

    def start(*settings, **environment):
        started.append(world.start(NIGHT, FOREVER, *settings, **environment))
        until(lambda: list((world.folder / "lake").rglob("sealed/resid.0.json")))
        until(lambda: list((world.folder / "lake").rglob("progress.json")))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def until(condition, seconds=60):
    """Wait for it."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.05)


def worker_of(process):
    """The process that does the work."""
    (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(child)


def ended(pid):
    return not Path(f"/proc/{pid}").exists() or ") Z " in Path(f"/proc/{pid}/stat").read_text()


def finish(world, harvested=True):
    """The night that comes after: it must go on from what is there, the whole harvest where that was `harvested`."""
    done = world.start(NIGHT)
    out, err = done.communicate(timeout=100)
    assert done.returncode == 0, err
    entry = next(entry for entry in world.entries() if entry.good)
    if harvested:
        assert world.tokens(entry) == 0
        assert [step.name for step in entry.record.steps] == ["dictionary"]
    assert len([one for one in world.entries() if one.good]) == 1
    return out, entry


def test_of_two_at_once_one_works_and_the_other_says_who_does(world):
    pair = [world.start(NIGHT, "jobs.dictionary.epochs=4000") for _ in range(2)]
    said = [process.communicate(timeout=200)[0] for process in pair]
    assert [process.returncode for process in pair] == [0, 0]
    (entry,) = world.entries()
    idle, busy = sorted(said, key=lambda out: "report:" in out)
    assert f"{entry.record.start.owner} (term 1, since " in idle
    assert "is at work on it" in idle
    assert f"report: runs/{entry.run}/report.md" in busy


def test_a_holder_killed_with_9_is_replaced_at_once_and_nothing_is_done_twice(world, training):
    first = training()
    worker = worker_of(first)
    first.kill()
    began = time.monotonic()
    _, entry = finish(world)
    assert time.monotonic() - began < 55  # the expiry is 60 s: it was not waited for
    assert entry.night.term == 2
    until(lambda: ended(worker), 20)
    others = [one for one in world.entries() if one.run != entry.run]
    assert [one.record.status for one in others] in ([], ["stopped"])


def test_work_that_is_killed_leaves_a_record_a_report_and_its_last_words(world, training):
    secret = "http://127.0.0.1:9/T0K3N"
    process = training("schedule.alerts.webhook=$HOOK", HOOK=secret)
    worker = worker_of(process)
    assert secret.encode() not in Path(f"/proc/{worker}/environ").read_bytes()
    os.kill(worker, signal.SIGKILL)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "could not be posted to $HOOK: URLError" in err
    (entry,) = world.entries()
    assert entry.record.status == "failed"
    assert entry.record.error.startswith("the process that did the work was killed by SIGKILL")
    assert world.page(entry) in out
    assert "tiny: tokens: 1 of 1 parts" in world.lake.folder.read(f"runs/{entry.run}/log.txt").decode()
    assert finish(world)[1].night.term == 2


def test_a_night_that_reaches_its_deadline_is_stopped_and_the_next_goes_on(world):
    process = world.start(NIGHT, FOREVER, "schedule.deadline=12s")
    out, _ = process.communicate(timeout=100)
    assert process.returncode == 1
    (entry,) = world.entries()
    assert (entry.record.status, entry.night.stopped) == ("stopped", "the deadline of 12 s passed")
    assert "the deadline of 12 s passed" in out
    assert "not covered" in out
    finish(world, harvested=False)  # on a busy machine 12 s may be too few for it


def test_a_holder_that_was_taken_for_dead_stops_its_work(world, training):
    process = training()
    claim = world.lake.folder.read("leases/nightly.nightly/00000001.json")
    held = decode_signed(claim, Holder, "the claim")
    later = msgspec.structs.replace(held, term=2, owner="someone@elsewhere", token="another")
    world.lake.folder.create("leases/nightly.nightly/00000002.json", signed(later))
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    (entry,) = world.entries()
    assert entry.record.status == "stopped"
    assert "another took the lease" in out
    world.lake.folder.create("leases/nightly.nightly/00000002.end", b"")
    assert finish(world)[1].night.term == 3


def test_a_night_that_is_told_to_stop_says_so_and_the_next_goes_on(world, training):
    process = training()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 130
    (entry,) = world.entries()
    assert (entry.record.status, entry.told) == ("stopped", True)
    assert "it was interrupted" in world.page(entry)
    finish(world)
