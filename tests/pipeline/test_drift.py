"""Limits on metrics, on the last artifact of the same series, and what a night says that broke one."""

import pytest

from pipeline.__main__ import main
from pipeline.drift import breaches
from pipeline.ledger import JobDrift, MetricDrift
from pipeline.schedule import Limit
from storage.value import convert
from tests.pipeline.nights import SAE, Nights


def judged(before, now, **limit):
    drift = JobDrift(artifact="sae-2", headline="", before="sae-1", metrics=(MetricDrift("fvu", before, now),))
    return breaches([convert({"job": "a", "metric": "fvu", **limit}, Limit, "limit")], {"a": drift})


class TestLimits:
    @pytest.mark.parametrize(
        ("limit", "holds", "breaks"),
        [
            ({"max": 0.5}, (0.1, 0.5), (0.1, 0.51)),
            ({"min": 0.5}, (0.9, 0.5), (0.9, 0.49)),
            ({"rise": 0.25}, (0.5, 0.75), (0.5, 0.76)),
            ({"fall": 0.25}, (0.5, 0.25), (0.5, 0.24)),
            ({"rise": 0.0}, (0.5, 0.5), (0.5, 0.51)),
        ],
    )
    def test_hold_up_to_their_value_and_break_beyond(self, limit, holds, breaks):
        assert judged(*holds, **limit) == ()
        (problem,) = judged(*breaks, **limit)
        assert problem.startswith("a: fvu ")

    def test_falling_breaks_no_limit_on_rising(self):
        assert judged(0.9, 0.1, rise=0.0) == ()
        assert judged(0.1, 0.9, fall=0.0) == ()

    def test_the_first_of_a_series_has_nothing_to_rise_from(self):
        assert judged(None, 0.9, rise=0.1, fall=0.1) == ()

    @pytest.mark.parametrize("metric", ["fvu", "dead"])
    def test_a_metric_without_a_number_cannot_be_judged_and_so_breaks_its_limit(self, metric):
        drift = JobDrift(
            artifact="sae-2", headline="", metrics=(MetricDrift("fvu", 0.1, None), MetricDrift("l0", 1, 2))
        )
        limit = Limit(job="a", metric=metric, max=1.0)
        assert breaches([limit], {"a": drift}) == (
            f"a: {metric} cannot be judged: the report has no such number; it has l0",
        )

    def test_one_on_a_sweep_is_judged_for_each_job_of_it(self):
        drift = JobDrift(artifact="x", headline="", metrics=(MetricDrift("fvu", None, 0.9),))
        limit = Limit(job="a", metric="fvu", max=0.5)
        broken = breaches([limit], {"a[seed=0]": drift, "a[seed=1]": drift, "b": drift})
        assert [one.partition(":")[0] for one in broken] == ["a[seed=0]", "a[seed=1]"]


class TestNights:
    @pytest.fixture
    def world(self, tmp_path, decoder):
        world = Nights(tmp_path, decoder, tables=SAE)
        world.add("a", *(f"document {n} of the first night" for n in range(40)))
        return world

    def test_each_job_is_compared_with_its_last_artifact(self, world):
        assert world.night("2026-11-02T05:00+00:00") == 0
        world.add("b", *(f"text {n} of the second" for n in range(40)))
        assert world.night("2026-11-03T05:00+00:00") == 0
        first, second = (entry.night.jobs["dictionary"] for entry in world.entries())
        assert (first.before, second.before) == ("", first.artifact)
        old, new = ({one.name: one for one in job.metrics} for job in (first, second))
        assert {name: new[name].before for name in old} == {name: one.now for name, one in old.items()}
        assert new["fvu"].now != new["fvu"].before
        page = world.page(world.entries()[1])
        assert f"beside `{first.artifact}`" in page
        assert "| fvu | " in page

    def test_a_job_that_was_run_by_hand_before_the_first_night_is_compared_with(self, world):
        assert main(["run", str(world.recipe)]) == 0
        (by_hand,) = world.lake.artifacts()
        world.add("b", *(f"text {n} of the second" for n in range(40)))
        assert world.night("2026-11-03T05:00+00:00") == 0
        assert world.entries()[0].night.jobs["dictionary"].before == by_hand

    def test_another_configuration_is_another_series(self, world):
        assert world.night("2026-11-02T05:00+00:00") == 0
        world.add("b", *(f"text {n} of the second" for n in range(40)))
        assert world.night("2026-11-03T05:00+00:00", "jobs.dictionary.seed=1") == 0
        assert world.entries()[1].night.jobs["dictionary"].before == ""

    def test_a_broken_limit_fails_the_command_and_covers_the_night(self, world):
        limit = 'schedule.limits=[{job="dictionary",metric="fvu",max=0.001},{job="dictionary",metric="auc",min=0.5}]'
        assert world.night("2026-11-02T05:00+00:00", limit) == 1
        (entry,) = world.entries()
        assert (entry.record.status, len(entry.night.breaches)) == ("done", 2)
        page = world.page(entry)
        assert page in world.said
        assert "breached" in page.splitlines()[0]
        assert "more than max 0.001" in page
        assert "auc cannot be judged" in page
        assert world.night("2026-11-02T06:00+00:00", limit) == 0
        assert "nothing is due" in world.said[-1]

    def test_a_limit_goes_on_being_broken_while_nothing_is_new(self, world):
        limit = 'schedule.limits=[{job="dictionary",metric="fvu",max=0.001,rise=0.0}]'
        assert [world.night(f"2026-11-0{day}T05:00+00:00", limit) for day in (2, 3)] == [1, 1]
        night = world.entries()[1].night
        assert len(night.breaches) == 1
        assert night.jobs["dictionary"].before == night.jobs["dictionary"].artifact
        assert "unchanged" in world.page(world.entries()[1])
