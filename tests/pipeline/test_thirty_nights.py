"""Thirty nights with everything that nights bring end with exactly the right segments, artifacts and ledger, and
each night's work is that of its new files alone."""

from collections import Counter
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from pipeline.journal import Journal
from pipeline.night_work import Ended, attempt
from storage.segment import Segment
from tests.pipeline import tiny
from tests.pipeline.nights import Nights, install, tally
from workers.harvest import UnitReceipt

ZURICH = ZoneInfo("Europe/Zurich")
FIRST = datetime(2026, 10, 10, 2, 0, tzinfo=ZURICH)
"""The clocks change in the sixteenth night."""
QUIET = (5, 17)
"""Nights without a new file."""
KEEP = "schedule.changed=keep"


class Died(BaseException):
    """The end of a process."""


def die(*_, **__):
    raise Died


def slot(n):
    """When night n, from 1 on, is due: two o'clock as people see it."""
    return (FIRST + timedelta(days=n - 1)).astimezone(ZoneInfo("UTC"))


def texts(n):
    """What is new in night n: now more, now less."""
    return [f"night {n} " + "some words " * (n * k % 7) for k in range(1 + n % 4)]


@pytest.fixture
def pool(monkeypatch):
    recording = tiny.RecordingPool()
    monkeypatch.setattr("pipeline.run.make_pool", lambda table, lake: recording)
    return recording


class Month:
    """The nights, and what each did."""

    def __init__(self, world, pool):
        self.world, self._pool, self._seen = world, pool, 0
        self.new = {}
        """Tokens of the file that came before each night."""

    def file(self, n):
        self.new[n] = self.world.add(f"{n:02}", *texts(n))

    def trigger(self, n, *settings, minutes=10, **more):
        """One call of the command after night n's slot: its exit code, and the tokens that went through models."""
        code = self.world.night((slot(n) + timedelta(minutes=minutes)).isoformat(), *settings, **more)
        units = [receipt for receipt in self._pool.receipts[self._seen :] if isinstance(receipt, UnitReceipt)]
        self._seen = len(self._pool.receipts)
        return code, sum(unit.forward_tokens for unit in units)

    def good(self, n, *settings, tokens=None, **more):
        """A night that ends well, and then is asked for twice more."""
        assert self.trigger(n, *settings, **more) == (0, self.new.get(n, 0) if tokens is None else tokens)
        for minutes in (more.get("minutes", 10) + 1, 700):
            assert self.trigger(n, *settings, minutes=minutes) == (0, 0)
            assert "nothing is due" in self.world.said[-1]


def test_thirty_nights(tmp_path, decoder, pool, monkeypatch):
    install(tmp_path, monkeypatch)
    tables = "".join(tally(name, name) for name in ("all", "newest", "continue"))
    world = Nights(tmp_path, decoder, tables=tables, schedule='retention = "365d"')
    month = Month(world, pool)
    changed = tmp_path / "docs" / "03.jsonl"

    def killed(order, lease, deadline):
        with monkeypatch.context() as patch:
            patch.setattr(Segment, "seal", die)
            patch.setattr(Journal, "end", die)
            try:
                attempt(order)
            except Died:
                return Ended(error="the process was killed", log="its last words\n")

    for n in range(1, 31):
        if n not in QUIET:
            month.file(n)
        match n:
            case 8:  # a file changed, and the schedule says to refuse that: nothing is done, however often it is tried
                original = changed.read_text()
                changed.write_text(original.replace("night 3", "night X"))
                for minutes in (10, 400):
                    assert month.trigger(n, minutes=minutes) == (2, 0)
                    assert "03.jsonl changed after cache" in world.said[-1]
            case 9:  # from here on it is kept as it was taken, and last night is made up for
                month.good(n, KEEP, tokens=month.new[8] + month.new[9])
            case 12:
                (tmp_path / "docs" / "02.jsonl").unlink()
                month.good(n, KEEP)
            case 14 | 15:  # the machine was off
                pass
            case 16:
                month.good(n, KEEP, tokens=sum(month.new[k] for k in (14, 15, 16)))
            case 20:  # a job fails; the harvest stays, and the next trigger has only the jobs to do
                with monkeypatch.context() as patch:
                    patch.setenv("TALLY_FAILS", "1")
                    assert month.trigger(n, KEEP) == (1, month.new[n])
                    assert "the scripted failure" in world.said[-1]
                month.good(n, KEEP, tokens=0, minutes=120)
            case 24:  # killed after the harvest, before it was sealed
                assert month.trigger(n, KEEP, work=killed) == (1, month.new[n])
                assert "the process was killed" in world.said[-1]
                month.good(n, KEEP, tokens=0, minutes=120)
            case _:
                month.good(n, *([KEEP] if n > 8 else []))

    check_ledger(world)
    check_segments(world, changed, original)
    check_artifacts(world, month)


def check_ledger(world):
    """Each slot is covered once, and what failed is told."""
    entries = world.entries()
    covered = Counter(one for entry in entries if entry.good for one in entry.night.covers)
    assert covered == {slot(n).isoformat(): 1 for n in range(1, 31)}
    assert [entry.record.status for entry in entries if not entry.good] == ["failed"] * 4
    assert all(entry.told for entry in entries)
    assert [len(entry.night.covers) for entry in entries if entry.good and len(entry.night.covers) > 1] == [2, 3]
    last = entries[-1].night.files["tiny"]
    assert (last.new, last.changed, last.gone) == (1, 1, 1)
    assert [name.rpartition("/")[2] for name in last.names] == ["30.jsonl", "03.jsonl"]


def check_segments(world, changed, original):
    """A segment for every night with new files, and the rows of one undisturbed run over the files as they were."""
    cache = tiny.only_cache(str(world.folder / "lake"))
    files = [[file.path[-8:-6] for file in segment.claimed.files] for segment in cache.segments]
    alone = [[f"{n:02}"] for n in range(1, 31) if n not in (*QUIET, 8, 9, 14, 15, 16)]
    assert files == sorted([*alone, ["08", "09"], ["14", "15", "16"]])
    world.add("02", *texts(2))
    changed.write_text(original)
    recipe = tiny.table(world.folder, world.folder, lake="undisturbed", sites=["embed", "resid.0"])
    recipe["models"]["model"]["name"] = cache.record.made["model"]
    undisturbed, progress = tiny.harvest(recipe, world.folder)
    assert len(undisturbed.segments) == 1
    assert list(cache.tokens.document_ids) == list(undisturbed.tokens.document_ids)
    for site in ("embed", "resid.0"):
        np.testing.assert_allclose(cache.site(site)[:], undisturbed.site(site)[:], rtol=1e-4, atol=1e-5)
    assert progress.forward_tokens == cache.n_rows


def check_artifacts(world, month):
    """One artifact of each job for every segment, each of exactly the segments that it should see."""
    records = [world.lake.artifact(name).record for name in world.lake.artifacts()]
    cache = tiny.only_cache(str(world.folder / "lake"))
    stops = range(1, len(cache.segments) + 1)
    seen = Counter((record.inputs["tiny"].first, record.inputs["tiny"].segments) for record in records)
    once = Counter((0, stop) for stop in stops)
    assert seen == once + Counter({(stop - 1, stop): 2 for stop in stops})
    total, newest = sum(month.new.values()), month.new[30]
    headlines = {name: job.headline for name, job in world.entries()[-1].night.jobs.items()}
    assert headlines == {
        "all": f"0 + {total} rows",
        "newest": f"0 + {newest} rows",
        "continue": f"{total - newest} + {newest} rows",
    }
    chain = {f"{record.kind}-{record.id}": record.previous for record in records}
    name, length = world.entries()[-1].night.jobs["continue"].artifact, 0
    while name:
        name, length = chain[name], length + 1
    assert length == len(cache.segments)


def test_a_file_that_changed_fails_the_night_with_a_report_that_names_it(tmp_path, decoder):
    world = Nights(tmp_path, decoder)
    for name in ("a", "b", "c"):
        world.add(name, f"what {name} says")
    assert world.night("2026-11-02T05:00+00:00") == 0
    for name in ("a", "c"):
        world.add(name, f"what {name} says now")
    assert world.night("2026-11-03T05:00+00:00") == 2
    entry = world.entries()[-1]
    assert (entry.record.status, entry.record.steps) == ("failed", ())
    page = world.page(entry)
    assert "not covered" in page
    assert "a.jsonl" in page
    assert "c.jsonl" in page
    assert "b.jsonl" not in page
    assert 'changed = "keep"' in page
