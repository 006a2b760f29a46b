"""Drift: a job's new artifact beside the last one of its series, and the limits that it must keep to."""

from collections.abc import Iterable, Mapping
from contextlib import suppress

from pipeline import series
from pipeline.ledger import JobDrift, MetricDrift
from pipeline.plan import JobStep
from pipeline.schedule import Limit, of_job
from storage.artifact import Record
from storage.errors import InputError
from storage.lake import Lake


def compare(lake: Lake, step: JobStep, last: str) -> JobDrift:
    """The step's artifact beside the one it went on from, the last good night's (`last`, if any), or else the newest
    of its series."""
    record = lake.artifact(step.artifact).record
    before = _before(lake, step, record, last)
    old = _metrics(before) if before else {}
    now = _metrics(record)
    return JobDrift(
        artifact=step.artifact,
        headline=record.report["headline"],
        before=series.folder(before) if before else "",
        metrics=tuple(
            MetricDrift(name=name, before=old.get(name), now=now.get(name)) for name in dict.fromkeys([*now, *old])
        ),
    )


def breaches(limits: Iterable[Limit], drifts: Mapping[str, JobDrift]) -> tuple[str, ...]:
    """Every limit that a job breaks, in words; `drifts` by the job's name."""
    return tuple(
        f"{job}: {problem}"
        for limit in limits
        for job, drift in drifts.items()
        if of_job(limit.job, job)
        for problem in _judge(limit, drift)
    )


def _judge(limit: Limit, drift: JobDrift) -> list[str]:
    metric = next((one for one in drift.metrics if one.name == limit.metric), None)
    if metric is None or metric.now is None:
        have = ", ".join(one.name for one in drift.metrics if one.now is not None) or "none"
        return [f"{limit.metric} cannot be judged: the report has no such number; it has {have}"]
    now, problems = metric.now, []
    if limit.max is not None and not now <= limit.max:
        problems.append(f"{limit.metric} is {now:g}, more than max {limit.max:g}")
    if limit.min is not None and not now >= limit.min:
        problems.append(f"{limit.metric} is {now:g}, less than min {limit.min:g}")
    if metric.before is not None:
        change = now - metric.before
        if limit.rise is not None and not change <= limit.rise:
            problems.append(f"{limit.metric} rose by {change:g} from {metric.before:g}, more than {limit.rise:g}")
        if limit.fall is not None and not -change <= limit.fall:
            problems.append(f"{limit.metric} fell by {-change:g} from {metric.before:g}, more than {limit.fall:g}")
    return problems


def _before(lake: Lake, step: JobStep, record: Record, last: str) -> Record | None:
    """What to compare with; `last` where it is of the same series, be it the same artifact.

    All artifacts of the kind are read only where neither is there: in a first night, or after the recipe was changed.
    """
    for name in filter(None, (step.previous, last)):
        with suppress(InputError):  # removed since
            known = lake.artifact(name).record
            if series.of(known) == series.of(record):
                return known
    same_kind = (lake.artifact(one).record for one in lake.artifacts() if one.rpartition("-")[0] == record.kind)
    earlier = [one for one in same_kind if series.of(one) == series.of(record) and _seen(one) < _seen(record)]
    return max(earlier, key=lambda one: (_seen(one), one.id), default=None)


def _seen(record: Record) -> int:
    """How far it has seen its caches, in segments."""
    return sum(one.segments for one in record.inputs.values())


def _metrics(record: Record) -> dict[str, float | None]:
    return {one["name"]: one["value"] for one in record.report["metrics"] if one["value"] is not None}
