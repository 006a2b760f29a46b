"""`report.md`: a night on one page, made from its record alone."""

from collections.abc import Iterator

from pipeline.ledger import Entry, JobDrift, MetricDrift
from pipeline.report import number
from storage.runs import StepRun

_METRICS = 12
"""Of a job that the page shows; all are in the record."""
_NAMES = 10
_ERROR_LINES = 30


def status(entry: Entry) -> str:
    """`done`, `breached`, `failed` or `stopped`."""
    return "breached" if entry.good and not entry.fine else entry.record.status


def line(entry: Entry) -> str:
    """The night in one line."""
    night, record = entry.night, entry.record
    tokens = sum(step.tokens for step in record.steps)
    what = f"nightly {night.schedule} of {night.slot}: {status(entry)}"
    why = (night.breaches or (night.stopped or _first(record.error),))[0] if not entry.fine else ""
    more = f" and {len(night.breaches) - 1} more" if len(night.breaches) > 1 else ""
    return f"{what}, {tokens:,} tokens in {record.seconds:,.0f} s{': ' + why if why else ''}{more}"


def page(entry: Entry, lake: str) -> str:
    """The whole page, Markdown."""
    return "\n".join([*_head(entry, lake), *_wrong(entry), *_changed(entry), *_jobs(entry)]) + "\n"


def _head(entry: Entry, lake: str) -> Iterator[str]:
    night, record = entry.night, entry.record
    yield f"# Nightly {night.schedule}, {night.slot[:10]}: {status(entry)}"
    yield ""
    missed = f" ({len(night.covers) - 1} missed before it)" if len(night.covers) > 1 else ""
    yield f"- Slot: {night.slot}{missed}; " + ("covered" if entry.good else "**not covered: due at the next trigger**")
    if len(night.covers) > 1:
        yield f"- Covers: {night.covers[0]} to {night.covers[-1]}"
    yield f"- Run: `{entry.run}` of recipe {record.start.recipe}, by {record.start.owner}, lease term {night.term}"
    tokens, rows = (sum(getattr(step, name) for step in record.steps) for name in ("tokens", "rows"))
    held = f"; {night.cpu_seconds:,.0f} CPU s, {night.max_rss / 2**20:,.0f} MiB at most" if night.max_rss else ""
    yield f"- Took: {record.seconds:,.1f} s, {tokens:,} tokens through models, {rows:,} rows{held}"
    if record.cost:
        yield "- Cost: " + ", ".join(f"{what} {amount:,.2f}" for what, amount in record.cost.items())
    yield f"- Lake: {lake}; the log is `runs/{entry.run}/log.jsonl`, or `log.txt` of a process that was killed"


def _wrong(entry: Entry) -> Iterator[str]:
    night, record = entry.night, entry.record
    if night.stopped:
        yield from ("", f"**Stopped:** {night.stopped}. What is finished stays; the next night goes on from there.")
    if record.error:
        lines = record.error.strip().splitlines()
        yield from ("", "## What went wrong", "", "```", *lines[-_ERROR_LINES:], "```")
    if night.breaches:
        yield from ("", "## Limits that do not hold", "", *(f"- {breach}" for breach in night.breaches))


def _changed(entry: Entry) -> Iterator[str]:
    night = entry.night
    if not night.files:
        return
    yield from ("", "## What changed", "")
    yield "| cache | new files | changed, kept as taken | gone, rows stay | new segments | rows | tokens |"
    yield "| --- | ---: | ---: | ---: | --- | ---: | ---: |"
    steps = {step.name: step for step in entry.record.steps if step.kind == "cache"}
    for name, files in night.files.items():
        step = steps.get(name) or StepRun(name=name, kind="cache", folder="", seconds=0.0)
        grown = ", ".join(map(str, step.segments)) or "none"
        yield (
            f"| {name} | {files.new:,} | {files.changed:,} | {files.gone:,} | {grown} | {step.rows:,} | "
            f"{step.tokens:,} |"
        )
    for name, files in night.files.items():
        if files.names:
            more = files.new + files.changed - _NAMES
            shown = ", ".join(f"`{one}`" for one in files.names[:_NAMES])
            yield from ("", f"{name}: {shown}{f' and {more} more' if more > 0 else ''}")


def _jobs(entry: Entry) -> Iterator[str]:
    failed = {step.name: step.error for step in entry.record.steps if step.error}
    for name, problem in failed.items():
        yield from ("", f"## {name}: failed", "", _first(problem))
    for name, drift in entry.night.jobs.items():
        yield from ("", f"## {name}", "", f"{drift.headline}", "", f"`{drift.artifact}`, {_beside(drift)}.")
        yield from _table(drift)


def _beside(drift: JobDrift) -> str:
    if not drift.before:
        return "the first of its series"
    return "unchanged" if drift.before == drift.artifact else f"beside `{drift.before}`"


def _table(drift: JobDrift) -> Iterator[str]:
    yield from ("", "| metric | before | now | difference |", "| --- | ---: | ---: | ---: |")
    for metric in drift.metrics[:_METRICS]:
        yield f"| {metric.name} | {number(metric.before)} | {number(metric.now)} | {_difference(metric)} |"
    if len(drift.metrics) > _METRICS:
        yield from ("", f"And {len(drift.metrics) - _METRICS} more in `record.json`.")


def _difference(metric: MetricDrift) -> str:
    if metric.before is None or metric.now is None:
        return ""
    change = metric.now - metric.before
    return f"{'+' if change > 0 else ''}{number(change)}"


def _first(text: str) -> str:
    """The last line of a traceback, or the first of a message."""
    lines = text.strip().splitlines() or [""]
    return lines[-1] if lines[0].startswith("Traceback") else lines[0]
