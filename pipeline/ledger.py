"""The ledger of a schedule: which nights were run, and so which are due; nothing but the records of its runs."""

import logging
from datetime import date, datetime, timedelta
from typing import Any

import msgspec

from pipeline.recipe import Opened
from pipeline.schedule import ScheduleTable
from storage.errors import GarnerError
from storage.runs import Run, RunRecord, runs
from storage.url import Folder
from storage.value import Value, checked_name, convert

log = logging.getLogger(__name__)

REPORT = "report.md"
"""Written once a night was reported; without it, somebody still has to."""
_MOST_COVERED = 400
_SLACK = timedelta(days=2)
"""How far the date of a folder and that of its slot may be apart: the zone may have been changed."""


class MetricDrift(Value):
    """One metric of a job beside what it was."""

    name: str
    before: float | None
    now: float | None


class JobDrift(Value):
    """A job's artifact beside the last one of its series."""

    artifact: str
    headline: str
    before: str = ""
    """The last one; "" for the first of its series."""
    metrics: tuple[MetricDrift, ...] = ()


class FilesOf(Value):
    """What became of a cache's corpus since the last night."""

    new: int = 0
    changed: int = 0
    gone: int = 0
    """Ever; their rows stay."""
    names: tuple[str, ...] = ()
    """Of the first new and changed ones."""


class Night(Value):
    """What the record of a scheduled run holds beside the steps."""

    schedule: str
    slot: str
    """The last fire time that it covers, UTC, ISO 8601."""
    covers: tuple[str, ...]
    """Every fire time that it covers: more than one where nights were missed; the last ones where they are many."""
    term: int
    """Of the lease it was run under."""
    files: dict[str, FilesOf] = {}
    """By cache."""
    jobs: dict[str, JobDrift] = {}
    breaches: tuple[str, ...] = ()
    """Limits that do not hold, in words."""
    stopped: str = ""
    """Why it was stopped before its end."""
    cpu_seconds: float = 0.0
    """Of the process that ran it, without those of a Ray cluster."""
    max_rss: int = 0
    """Most bytes that process held."""


class Entry(Value):
    """One night that ended."""

    run: str
    """Name of the run's folder."""
    record: RunRecord
    night: Night
    told: bool
    """Whether it was reported."""

    @property
    def good(self) -> bool:
        """Whether its slots are covered; a broken limit does not change that."""
        return self.record.status == "done"

    @property
    def fine(self) -> bool:
        return self.good and not self.night.breaches


def name_of(opened: Opened, schedule: ScheduleTable) -> str:
    """What the schedule's lease and ledger go by."""
    return schedule.name or checked_name(opened.title, "a schedule (give it a name of its own, schedule.name)")


def read(lake: Folder, name: str) -> tuple[Entry, ...]:
    """The schedule's nights that ended, oldest first: from a while before the last good one on."""
    found: list[Entry] = []
    floor = ""
    for run in reversed(runs(lake)):
        if run.folder.name < floor:
            break
        ended = entry(run, name)
        if ended is not None:
            found.append(ended)
            if ended.good and not floor:
                floor = str(_day(run.folder.name) - _SLACK)
    return tuple(sorted(found, key=lambda entry: (entry.night.slot, entry.night.term)))


def last_good(entries: tuple[Entry, ...]) -> Entry | None:
    """The one that covers the latest slot."""
    return next((entry for entry in reversed(entries) if entry.good), None)


def due(schedule: ScheduleTable, last: Entry | None, now: datetime) -> tuple[datetime, ...]:
    """Fire times that no good night covers; of a schedule's first, the latest alone."""
    if last is None:
        latest = schedule.latest(now)
        return (latest,) if latest else ()
    return schedule.due(datetime.fromisoformat(last.night.slot), now)


def covering(slots: tuple[datetime, ...]) -> tuple[str, ...]:
    """Fire times as a record keeps them."""
    return tuple(slot.isoformat() for slot in slots[-_MOST_COVERED:])


def retire(lake: Folder, opened: Opened, name: str, keep: str, before: date) -> tuple[str, ...]:
    """Remove the folders of the schedule's nights of before that day, never that of the run `keep`; which they were."""
    old = [run for run in runs(lake) if run.folder.name != keep and _day(run.folder.name) < before]
    gone = [run.folder.name for run in old if _ours(run, opened, name)]
    for one in gone:
        lake.remove(f"runs/{one}")
        lake.remove(f"leases/run.{one}")
    return tuple(gone)


def _ours(run: Run, opened: Opened, name: str) -> bool:
    """Whether the run is one of the schedule's nights, or one of its recipe that was killed."""
    try:
        record = run.record
        if record is None:
            return run.start.recipe == opened.title
        return record.night.get("schedule") == name
    except GarnerError:  # damaged: left for someone to look at
        return False


def entry(run: Run, name: str) -> Entry | None:
    """The night that the run was, if it was one of that schedule and has ended."""
    try:
        record = run.record
        if record is None or record.night.get("schedule") != name:
            return None
        night = convert(record.night, Night, f"{run.folder}/record.json: night")
    except GarnerError as error:
        log.warning("a run is passed over: %s", error)
        return None
    return Entry(run=run.folder.name, record=record, night=night, told=run.folder.exists(REPORT))


def _day(run: str) -> date:
    """The date that a run's folder begins with; the last there is for one that does not."""
    try:
        return date.fromisoformat(run[:10])
    except ValueError:
        return date.max


def plain(night: Night) -> dict[str, Any]:
    """The night as a record holds it."""
    made: dict[str, Any] = msgspec.to_builtins(night)
    return made
