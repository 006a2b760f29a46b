"""`garner nightly`, called whenever and by whomever: each slot is covered once, and whoever holds it is left alone."""

import time
from datetime import datetime, timedelta
from functools import partial

import numpy as np
import pytest

from pipeline.__main__ import main
from pipeline.nightly import Nightly
from storage import RunError
from storage.lease import Holder, take
from storage.value import signed
from tests.pipeline.nights import Nights, in_process

NIGHT = "2026-11-02T05:00+00:00"


@pytest.fixture
def world(tmp_path, decoder):
    world = Nights(tmp_path, decoder)
    world.add("a", "the words of the first day")
    return world


def covered(world):
    return [slot[:10] for entry in world.entries() if entry.good for slot in entry.night.covers]


class TestDue:
    def test_the_first_night_covers_the_latest_slot_alone(self, world):
        assert world.night(NIGHT) == 0
        assert covered(world) == ["2026-11-02"]
        assert world.said[-1].startswith("nightly nightly of 2026-11-02T01:00:00+00:00: done, 26 tokens")

    def test_what_was_covered_is_not_due_and_the_next_slot_is_named(self, world):
        world.night(NIGHT)
        before = sorted(world.folder.rglob("*"))
        assert world.night(NIGHT) == 0
        assert "nothing is due" in world.said[-1]
        assert "the next is 2026-11-03T02:00:00+01:00" in world.said[-1]
        assert sorted(world.folder.rglob("*")) == before

    def test_one_run_makes_up_for_missed_nights(self, world):
        world.night(NIGHT)
        tokens = [world.add(name, f"the words of {name}") for name in ("b", "c", "d")]
        assert world.night("2026-11-05T05:00+00:00") == 0
        entry = world.entries()[-1]
        assert [slot[:10] for slot in entry.night.covers] == ["2026-11-03", "2026-11-04", "2026-11-05"]
        assert world.tokens(entry) == sum(tokens)
        assert [step.segments for step in entry.record.steps] == [(1,)]

    def test_a_night_without_anything_new_is_covered_without_a_forward_pass(self, world):
        world.night(NIGHT)
        assert world.night("2026-11-03T05:00+00:00") == 0
        assert covered(world) == ["2026-11-02", "2026-11-03"]
        assert world.entries()[-1].record.steps == ()

    def test_a_recipe_without_a_schedule_is_refused(self, world, capsys):
        world.recipe.write_text(world.recipe.read_text().partition("[schedule]")[0])
        assert main(["nightly", str(world.recipe)]) == 2
        assert "has no [schedule]" in capsys.readouterr().err

    def test_one_recipe_that_fails_keeps_no_other_from_its_night(self, world, capsys):
        assert main(["nightly", "missing.toml", str(world.recipe), "--now", NIGHT]) == 2
        assert covered(world) == ["2026-11-02"]

    def test_a_damaged_record_of_a_run_keeps_no_night_from_its_work(self, world):
        world.night(NIGHT)
        (record,) = (world.folder / "lake" / "runs").glob("*/record.json")
        record.write_bytes(record.read_bytes().replace(b"2026", b"2027"))
        assert world.night("2026-11-03T05:00+00:00") == 0
        assert covered(world) == ["2026-11-03"]

    def test_folders_of_nights_older_than_the_retention_go_and_those_of_others_stay(self, world):
        assert main(["run", str(world.recipe)]) == 0
        (by_hand,) = (world.folder / "lake" / "runs").iterdir()
        by_hand.rename(by_hand.with_name("2026-01-01-ffffffff"))
        for day in range(2, 9):
            assert world.night(f"2026-11-0{day}T05:00+00:00", "schedule.retention=3d") == 0
        names = sorted(path.name[:10] for path in by_hand.parent.iterdir())
        assert names == ["2026-01-01", *(f"2026-11-0{day}" for day in range(5, 9))]


class TestClock:
    def test_a_clock_that_is_behind_runs_nothing_that_was_run(self, world):
        assert world.night("2026-11-02T01:00+00:00") == 0
        assert world.night("2026-11-02T00:50+00:00") == 0
        assert "the clock here is behind" in world.said[-1]
        assert covered(world) == ["2026-11-02"]

    @pytest.mark.parametrize("seed", range(3))
    def test_machines_whose_clocks_are_ten_minutes_off_cover_each_slot_once(self, world, seed):
        rng, tokens = np.random.default_rng(seed), 26
        began = datetime.fromisoformat("2026-11-02T00:30+00:00")
        assert world.night("2026-11-02T00:00+00:00") == 0
        for day in range(5):
            tokens += world.add(f"day-{day}", f"the words of day {day}")
            for minute in range(0, 61, 6):
                skew = int(rng.integers(-10, 11))
                moment = began + timedelta(days=day, minutes=minute + skew)
                assert world.night(moment.isoformat()) == 0
        assert covered(world) == [f"2026-11-0{day}" for day in range(1, 7)]
        assert sum(world.tokens(entry) for entry in world.entries()) == tokens


class TestLease:
    def test_a_holder_that_lives_is_named_and_left_alone(self, world, monkeypatch):
        said = []

        def work(order, lease, deadline):
            second = Nightly(str(world.recipe), (), datetime.fromisoformat(NIGHT), said.append, in_process)
            assert second.run() == 0
            return in_process(order, lease, deadline)

        monkeypatch.setattr("pipeline.nightly.take", partial(take, beat=0.2))
        assert world.night(NIGHT, work=work) == 0
        (line,) = said
        assert "is at work on it; nothing to do here" in line
        assert world.entries()[0].record.start.owner in line
        assert covered(world) == ["2026-11-02"]

    def test_whoever_gets_the_lease_after_another_did_the_night_does_nothing(self, world, monkeypatch):
        def after_another(*args):
            monkeypatch.setattr("pipeline.nightly.take", take)
            assert world.night(NIGHT) == 0
            return take(*args)

        monkeypatch.setattr("pipeline.nightly.take", after_another)
        assert world.night(NIGHT) == 0
        assert covered(world) == ["2026-11-02"]
        assert "nothing is due" in world.said[-1]

    def test_a_holder_of_another_machine_that_died_is_replaced_after_its_expiry(self, world):
        held = Holder(
            name="nightly.nightly",
            term=1,
            owner="someone@elsewhere",
            process="",
            taken="",
            beat=0.2,
            expiry=2.0,
            token="t",
        )
        world.lake.folder.create("leases/nightly.nightly/00000001.json", signed(held))
        began = time.monotonic()
        assert world.night(NIGHT) == 0
        assert time.monotonic() - began > 2.0
        assert world.entries()[0].night.term == 2

    def test_a_damaged_lease_stops_the_night_with_what_to_do_and_is_told(self, world, tmp_path, capsys):
        world.lake.folder.create("leases/nightly.nightly/00000001.json", b"{}")
        alert = tmp_path / "alert.json"
        setting = f'schedule.alerts.command=["tee","{alert}"]'
        assert main(["nightly", str(world.recipe), "--now", NIGHT, "--set", setting]) == 1
        error = capsys.readouterr().err
        assert "nightly.nightly/00000001.json is damaged" in error
        assert "remove the folder" in error
        assert world.entries() == []
        assert "is damaged" in alert.read_text()
        with pytest.raises(RunError, match="is damaged"):
            world.night(NIGHT)
        world.lake.folder.remove("leases/nightly.nightly")
        assert world.night(NIGHT) == 0


class TestReport:
    def test_a_night_whose_watcher_died_before_it_was_told_is_told_by_the_next_call_and_once(self, world, tmp_path):
        setting = f'schedule.alerts={{on="always",command=["tee","-a","{tmp_path / "alerts"}"]}}'
        assert world.night(NIGHT) == 0
        (report,) = (world.folder / "lake" / "runs").glob("*/report.md")
        report.unlink()
        for _ in range(2):
            assert world.night(NIGHT, setting) == 0
        assert report.exists()
        assert (tmp_path / "alerts").read_text().count('"status":"done"') == 1

    def test_the_page_says_what_changed_and_where_the_log_is(self, world):
        world.night(NIGHT)
        (entry,) = world.entries()
        page = world.page(entry)
        assert page.startswith("# Nightly nightly, 2026-11-02: done\n")
        assert "| tiny | 1 | 0 | 0 | 0 | 26 | 26 |" in page
        assert "a.jsonl" in page
        assert f"runs/{entry.run}/log.jsonl" in page
        assert world.lake.folder.exists(f"runs/{entry.run}/log.jsonl")
