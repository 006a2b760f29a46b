"""Running a recipe: every step that is not done, in order, on the recipe's pool."""

import logging
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from pipeline import memory
from pipeline.build import Built, CacheRun, build
from pipeline.estimate import check_disk
from pipeline.facts import Facts, gather
from pipeline.follow import harvesting
from pipeline.journal import Journal
from pipeline.plan import CacheStep, JobStep, Step, plan, studies
from pipeline.pools import make_pool
from pipeline.progress import Progress
from pipeline.recipe import Opened
from pipeline.sweeps import run_jobs
from pipeline.work import JobReceipt
from pipeline.worth import spent
from storage.errors import GarnerError, InputError
from storage.lake import Lake
from storage.lease import Lease, take
from storage.removal import EXPIRED, going, keep
from storage.runs import RunRecord, StepRun
from storage.value import Value
from workers.pool import Loss, Pool

log = logging.getLogger(__name__)


class Outcome(Value):
    """What a run came to."""

    steps: tuple[Step, ...]
    """As they were planned; all of them are done now."""
    jobs: tuple[JobReceipt, ...] = ()
    """Of the jobs that ran."""
    record: RunRecord | None = None
    """None if nothing was missing and the run was no night's."""


class Night(Protocol):
    """What a scheduled run adds."""

    @property
    def run_id(self) -> str:
        """Name of the run's folder."""

    def told(self, steps: Sequence[Step], done: Sequence[StepRun]) -> Mapping[str, Any]:
        """What the record holds beside the steps that were done; `steps` are all, as they were planned."""


def survey(opened: Opened) -> tuple[Facts, tuple[Step, ...]]:
    """Look at the world, and plan."""
    work = studies(opened)
    named = frozenset(read.cache for study in work for read in study.reads)
    facts = gather(opened, named, frozenset(path for study in work for path in study.files))
    return facts, plan(opened, work, facts)


def run(opened: Opened, progress: Progress, night: Night | None = None) -> Outcome:
    """Build what is missing, and keep a record of it in the lake; of a `night` also where nothing is missing."""
    _, steps = survey(opened)
    left = [step for step in steps if not step.done]
    for step in steps:
        if step.done:
            log.info("%s: done already", step.name)
    if not left and night is None:
        return Outcome(steps=steps)
    _check_memory(opened, left)
    check_disk(opened, left)
    lake = Lake(opened.lake)
    lake.check_writable()
    journal = Journal(lake.folder, opened, night.run_id if night else "")
    progress.listener = journal.tell
    with _kept(journal, opened, steps, night), _holding(lake, journal.start.id, steps):
        receipts = _make(opened, left, lake, progress, journal) if left else ()
    return Outcome(steps=steps, jobs=receipts, record=journal.record)


def _make(
    opened: Opened, left: Sequence[Step], lake: Lake, progress: Progress, journal: Journal
) -> tuple[JobReceipt, ...]:
    """Caches one after the other, then the jobs."""
    pool = make_pool(opened.recipe.pool, opened.lake)
    for step in left:
        if isinstance(step, CacheStep):
            journal.steps.append(_build(opened, step, lake, pool, progress))
    return run_jobs(opened, [step for step in left if isinstance(step, JobStep)], pool, progress, journal)


@contextmanager
def _kept(journal: Journal, opened: Opened, steps: Sequence[Step], night: Night | None) -> Iterator[None]:
    """Writes the run's record, whatever happens inside."""
    status, error = "stopped", ""
    try:
        yield
        status = "done"
    except GarnerError as fault:
        status, error = "failed", str(fault)
        raise
    except Exception as fault:
        status, error = "failed", f"{type(fault).__name__}: {fault}"
        raise
    finally:
        more = {"night": dict(night.told(steps, journal.steps))} if night else {}
        journal.end(status, error, cost=spent(opened, journal.steps), **more)


@contextmanager
def _holding(lake: Lake, run_id: str, steps: Sequence[Step]) -> Iterator[Lease]:
    """The run's own lease, which keeps what the run reads and writes from being removed.

    The lease first, then the look for marks of removal; whoever removes marks first, then looks for leases. So one of
    the two sees the other.
    """
    jobs = [step for step in steps if isinstance(step, JobStep)]
    read = {one.cache for step in jobs for one in step.inputs.values()}
    built = {step.facts.folder for step in steps if isinstance(step, CacheStep) and not step.done}
    artifacts = {one for step in jobs for one in (step.artifact, step.previous, *step.artifacts.values()) if one}
    uses = [f"caches/{name}" for name in sorted(read | built)] + [f"artifacts/{name}" for name in sorted(artifacts)]
    lease = take(lake.folder, f"run.{run_id}", uses=uses)
    assert isinstance(lease, Lease)
    with lease:
        _check_marks(lake, steps, built)
        for step in jobs:
            if not step.done:
                keep(lake.folder, f"artifacts/{step.artifact}")
        yield lease


def _check_marks(lake: Lake, steps: Sequence[Step], built: Collection[str]) -> None:
    """Whether something that jobs read was marked since the run was planned; what is built is kept by building it."""
    made = {step.artifact for step in steps if isinstance(step, JobStep) and not step.done}
    for step in steps:
        if not isinstance(step, JobStep) or step.done:
            continue
        lost = [
            f"cache {one.cache}"
            for one in step.inputs.values()
            if (one.cache not in built and going(lake.folder / f"caches/{one.cache}"))
            or (lake.folder / f"caches/{one.cache}/segments/{one.first:05d}").exists(EXPIRED)
        ]
        earlier = {step.previous, *step.artifacts.values()} - {"", *made}
        lost += [f"artifact {one}" for one in sorted(earlier) if going(lake.artifact_folder(one))]
        if lost:
            raise InputError(
                f"{lost[0]}, which job {step.name!r} reads, was marked for removal since this run was planned: "
                "run again to make what is missing, or `garner rm --undo` it"
            )


def _check_memory(opened: Opened, left: Sequence[Step]) -> None:
    """Whether what will be harvested on this machine fits into its memory."""
    table = opened.recipe.pool
    here = {"local": 1}.get(table.kind, table.workers or os.cpu_count() or 1)
    for step in left if table.kind == "local" or table.address == "local" else ():
        if isinstance(step, CacheStep) and step.facts.memory is not None:
            memory.check(f"caches.{step.name}", step.facts.memory, here)


def _build(opened: Opened, step: CacheStep, lake: Lake, pool: Pool, progress: Progress) -> StepRun:
    """Build one cache, alone; a harvest of it elsewhere is waited for, and leaves nothing to do."""
    lost = len(pool.losses)
    with harvesting(lake, step.facts.folder):
        built = build(_cache_run(opened, step), lake, pool, progress)
    return _step_run(step, built, pool.losses[lost:])


def _step_run(step: CacheStep, built: Built, losses: Sequence[Loss]) -> StepRun:
    return StepRun(
        name=step.name,
        kind="cache",
        folder=step.facts.folder,
        seconds=built.seconds,
        segments=built.segments,
        files=built.files,
        units=built.harvested.units,
        rows=built.harvested.rows,
        tokens=built.harvested.forward_tokens,
        workers=built.harvested.workers,
        harvest=built.harvested.seconds,
        busy=built.harvested.busy,
        timings={"tokenise": built.tokenise} | built.harvested.timings,
        bytes=built.harvested.bytes,
        device=built.harvested.device,
        losses=Counter(loss.reason for loss in losses),
    )


def _cache_run(opened: Opened, step: CacheStep) -> CacheRun:
    table = opened.recipe.caches[step.name]
    return CacheRun(
        step=step,
        table=table,
        corpus=opened.corpora[table.corpus],
        model_dtype=opened.recipe.models[table.model].dtype,
        pool=opened.recipe.pool,
    )
