"""`[schedule]`: when it fires, across clock changes too, and what is refused before anything starts."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from pipeline.__main__ import main
from pipeline.schedule import ScheduleTable
from storage import InputError
from storage.value import convert
from tests.pipeline.nights import SAE, Nights


def schedule(cron="0 2 * * *", **more):
    return convert({"cron": cron, **more}, ScheduleTable, "schedule")


def at(text):
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


class TestFires:
    def test_fields_are_read_in_the_zone(self):
        zurich = schedule(zone="Europe/Zurich")
        assert zurich.latest(at("2026-07-01T12:00")) == at("2026-07-01T00:00")
        assert zurich.latest(at("2026-12-01T12:00")) == at("2026-12-01T01:00")
        assert schedule().next(at("2026-07-01T12:00")) == at("2026-07-02T02:00")

    def test_a_time_that_the_clock_skips_fires_right_after_it_and_once(self):
        spring = schedule("15,30 2 * * *", zone="Europe/Zurich")
        fires = spring.due(at("2026-03-28T12:00"), at("2026-03-30T00:00"))
        assert fires == (at("2026-03-29T01:00"),)

    def test_a_time_that_comes_twice_fires_once(self):
        autumn = schedule("30 2 * * *", zone="Europe/Zurich")
        assert autumn.due(at("2026-10-24T12:00"), at("2026-10-26T00:00")) == (at("2026-10-25T00:30"),)

    def test_every_moment_of_a_clock_change_agrees_on_what_fired_last(self):
        for day, cron in (("2026-10-25", "30 2 * * *"), ("2026-03-29", "30 2 * * *"), ("2026-10-25", "0 * * * *")):
            table, began = schedule(cron, zone="Europe/Zurich"), at(f"{day}T00:00") - timedelta(days=1)
            fires = table.due(began, began + timedelta(days=4))
            for minute in range(0, 36 * 60, 5):
                now = began + timedelta(days=1, minutes=minute)
                latest = [fire for fire in fires if fire <= now][-1]
                assert table.latest(now) == latest
                assert table.due(latest, now) == ()
                assert table.next(now) == next(fire for fire in fires if fire > now)

    def test_the_moment_of_a_slot_is_due_and_the_slot_after_itself_is_not(self):
        slot = at("2026-07-01T02:00")
        assert schedule().latest(slot) == slot
        assert schedule().due(slot, slot) == ()

    def test_the_29th_of_february_is_found_years_back(self):
        leap = schedule("0 0 29 2 *")
        assert leap.latest(at("2026-07-01T12:00")) == at("2024-02-29T00:00")
        assert leap.next(at("2026-07-01T12:00")) == at("2028-02-29T00:00")


class TestRefused:
    @pytest.mark.parametrize(
        ("cron", "problem"),
        [
            ("0 0 30 2 *", "no cron expression that ever fires"),
            ("0 0 31 4,6 *", "no cron expression that ever fires"),
            ("61 * * * *", "Bad minute"),
            ("0 2 * *", "has 4 fields"),
            ("0 0 2 * * *", "has 6 fields"),
            ("@daily", "has 1 fields"),
            ("", "has 0 fields"),
        ],
    )
    def test_a_cron_expression_that_never_fires(self, cron, problem):
        with pytest.raises(InputError, match=rf"^schedule\.cron: .*{problem}"):
            schedule(cron)

    @pytest.mark.parametrize("zone", ["Mars/Olympus", "../etc", "Europe", ""])
    def test_an_unknown_zone(self, zone):
        with pytest.raises(InputError, match=r"^schedule\.zone: .* is no time zone known here"):
            schedule(zone=zone)

    @pytest.mark.parametrize("span", ["-6h", "0h", "6", "h", "six hours"])
    @pytest.mark.parametrize("field", ["deadline", "retention"])
    def test_spans_that_are_none(self, field, span):
        with pytest.raises(InputError, match=rf"^schedule\.{field}: "):
            schedule(**{field: span})

    @pytest.mark.parametrize(
        ("limit", "problem"),
        [
            ({"job": "a", "metric": "m"}, r"limits\[0\]: a limit needs at least one of max, min, rise and fall"),
            ({"job": "a", "metric": "m", "rise": -0.1}, r"limits\[0\]: rise is how far it may go"),
            ({"job": "a", "metric": "m", "most": 1.0}, r"limits\[0\]: Object contains unknown field"),
            ({"metric": "m", "max": 1.0}, r"limits\[0\]: .*missing required field `job`"),
        ],
    )
    def test_limits_that_say_nothing(self, limit, problem):
        with pytest.raises(InputError, match=problem):
            schedule(limits=[limit])

    @pytest.mark.parametrize("address", ["http://example.org/T0K3N", "T0K3N", "$T0K3N here", "$", "https://"])
    def test_a_webhook_that_is_none_without_showing_it(self, address):
        with pytest.raises(InputError, match=r"^schedule\.alerts\.webhook: ") as caught:
            schedule(alerts={"webhook": address})
        assert "T0K3N" not in str(caught.value)

    def test_what_a_recipe_shows_of_a_webhook_is_its_host(self):
        table = schedule(alerts={"webhook": "https://hooks.example.org/T0K3N"})
        assert "T0K3N" not in repr(table)
        assert msgspec.to_builtins(table, enc_hook=str)["alerts"]["webhook"] == "hooks.example.org"

    @pytest.mark.parametrize(
        ("setting", "problem"),
        [
            ("schedule.cron=0 0 30 2 *", "schedule.cron: '0 0 30 2 *' is no cron expression that ever fires"),
            ("schedule.zone=Mars/Olympus", "schedule.zone"),
            ("schedule.deadline=-1h", "schedule.deadline"),
            ('schedule.limits=[{job="dictionery",metric="fvu",max=1.0}]', "did you mean dictionary?"),
        ],
    )
    def test_garner_plan_refuses_it_already(self, tmp_path, decoder, capsys, setting, problem):
        world = Nights(tmp_path, decoder, tables=SAE)
        world.add("a", "some words")
        assert main(["plan", str(world.recipe), "--set", setting]) == 2
        assert problem in capsys.readouterr().err

    def test_a_limit_on_a_sweep_is_one_on_every_job_of_it(self, tmp_path, decoder):
        world = Nights(tmp_path, decoder, tables=SAE + "[jobs.dictionary.sweep]\nseed = [0, 1]\n")
        world.add("a", "some words")
        for job in ("dictionary", "dictionary[seed=1]"):
            setting = f'schedule.limits=[{{job="{job}",metric="fvu",max=1.0}}]'
            assert main(["plan", str(world.recipe), "--set", setting]) == 0
