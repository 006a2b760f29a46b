"""How the newest run of a recipe goes, or went: for `garner status`, live with `--watch`."""

import time
from collections.abc import Iterator

from pipeline.journal import recipe_digest
from pipeline.progress import eta
from pipeline.recipe import Opened
from storage.lease import holders
from storage.runs import Progress, Run, RunRecord, StepRun, runs
from storage.url import Folder

_QUIET = 30.0
"""Seconds without progress after which it is asked whether the run is still there."""
_LOOKED_AT = 50
"""Run folders that are looked into, the newest by date."""


def newest(opened: Opened) -> Run | None:
    """The last run of this recipe that was begun; the pool, the schedule and prices may have been others."""
    digest = recipe_digest(opened)
    mine = [one for one in runs(Folder.at(opened.lake))[-_LOOKED_AT:] if one.begun and one.start.digest == digest]
    return max(mine, key=lambda one: one.start.time, default=None)


def lines(run: Run) -> Iterator[str]:
    """What the run came to, or how far it is."""
    start, record, progress = run.start, run.record, run.progress
    head = f"run    {start.id}, begun {start.time} by {start.owner}"
    if record is not None:
        yield f"{head}: {record.status} in {record.seconds:.1f} s"
        yield from _record_lines(record)
    elif progress is not None:
        yield f"{head}: {_progress_line(progress)}"
    else:
        yield f"{head}: under way, or killed; no record of its end"


def watch(opened: Opened, every: float = 2.0) -> Iterator[str]:
    """A line whenever the newest run has come further, until it ends."""
    run, said, since = newest(opened), "", time.monotonic()
    if run is None:
        yield "no run of this recipe was begun yet"
    while run is not None and run.record is None:
        line = _progress_line(progress) if (progress := run.progress) else ""
        if line != said:
            said, since = line, time.monotonic()
            yield line
        if time.monotonic() - since > _QUIET and not _lives(opened, run):
            yield f"run {run.start.id} was killed; `garner run` goes on from there"
            return
        time.sleep(every)
    if run is not None:
        yield from lines(run)


def _lives(opened: Opened, run: Run) -> bool:
    """Whether the run gives a sign of life; waits for one."""
    return any(one.name == f"run.{run.start.id}" for one in holders(Folder.at(opened.lake)))


def _progress_line(told: Progress) -> str:
    rate = f", {told.tokens_per_second:,.0f} tokens/s" if told.tokens_per_second else ""
    left = eta(told.seconds, told.done, told.total)
    return f"{told.step}: {told.done:,} of {told.total:,} {told.unit}{rate}, eta {left}"


def _record_lines(record: RunRecord) -> Iterator[str]:
    for step in record.steps:
        if step.kind == "cache":
            yield f"       {step.name:<24} {_harvest_line(step)}"
        else:
            yield f"       {step.name:<24} {step.error.splitlines()[-1] if step.error else step.headline}"
    if record.cost:
        yield "       cost: " + ", ".join(f"{what} {amount:,.4g}" for what, amount in record.cost.items())
    if record.error:
        yield f"       {record.error.splitlines()[0]}"


def _harvest_line(step: StepRun) -> str:
    """Rows, throughput, utilisation, and where the workers' time went."""
    rate = step.tokens / step.harvest if step.harvest else 0.0
    whole = sum(step.timings.values()) or 1.0
    shares = ", ".join(f"{what} {seconds / whole:.0%}" for what, seconds in step.timings.items() if seconds)
    lost = ", ".join(f"{count} {reason}" for reason, count in step.losses.items())
    return (
        f"{step.rows:,} rows, {rate:,.0f} tokens/s, {step.workers} workers {step.utilisation:.0%} busy"
        + (f"; {shares}" if shares else "")
        + (f"; run again: {lost}" if lost else "")
    )
