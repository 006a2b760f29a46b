"""How far each cache and job of a recipe has come."""

from collections.abc import Iterator

from pipeline.describe import describe
from pipeline.plan import CacheStep
from pipeline.recipe import Opened
from pipeline.run import survey
from pipeline.watch import lines, newest


def status(opened: Opened) -> Iterator[str]:
    """A line per site of every cache, and a line per job."""
    for step in survey(opened)[1]:
        if isinstance(step, CacheStep):
            yield from _cache_lines(step)
        else:
            state, name, what = describe(step)
            yield f"{state:<6} {name:<24} {what}"
    if (run := newest(opened)) is not None:
        yield from lines(run)


def _cache_lines(step: CacheStep) -> Iterator[str]:
    yield f"{'done' if step.done else 'to do':<6} {step.name:<24} {step.facts.folder}"
    for segment in step.facts.segments:
        head = f"         segment {segment.number:<5} {segment.files} files"
        if segment.rows is None:
            yield f"{head}, tokens not indexed yet"
            continue
        yield f"{head}, {segment.rows:,} rows"
        for site in step.facts.widths:
            done = segment.units if site in segment.sealed else segment.done.get(site, 0)
            state = "sealed" if site in segment.sealed else f"{done} of {segment.units} units"
            yield f"           {site:<20} {state}"
    if step.facts.new_files:
        yield f"         {len(step.facts.new_files)} new files, about {step.estimate:,} rows"
