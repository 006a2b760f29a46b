"""Running a recipe: every step that is not done, in order, on the recipe's pool."""

import logging
import os
from collections.abc import Sequence

import msgspec

from pipeline import memory
from pipeline.build import CacheRun, build
from pipeline.facts import Facts, gather
from pipeline.plan import CacheStep, JobStep, Step, plan, studies
from pipeline.pools import make_pool
from pipeline.progress import Progress
from pipeline.recipe import Opened
from pipeline.work import JobReceipt, JobTask, JobWorker
from storage.errors import InputError, RunError
from storage.lake import Lake
from workers.pool import Needs, Pool

log = logging.getLogger(__name__)

JOBS = Needs(timed=False, copies=False)


def survey(opened: Opened) -> tuple[Facts, tuple[Step, ...]]:
    """Look at the world, and plan."""
    work = studies(opened)
    facts = gather(opened, frozenset(read.cache for study in work for read in study.reads))
    return facts, plan(opened, work, facts)


def run(opened: Opened, progress: Progress) -> tuple[tuple[Step, ...], tuple[JobReceipt, ...]]:
    """Build what is missing; the steps as they were planned, all of them done now, and what the jobs that ran say."""
    _, steps = survey(opened)
    left = [step for step in steps if not step.done]
    for step in steps:
        if step.done:
            log.info("%s: done already", step.name)
    if not left:
        return steps, ()
    _check_memory(opened, left)
    lake = Lake(opened.lake)
    lake.check_writable()
    pool = make_pool(opened.recipe.pool, opened.lake)
    for step in left:
        if isinstance(step, CacheStep):
            build(_cache_run(opened, step), lake, pool, progress)
    return steps, _run_jobs(opened, [step for step in left if isinstance(step, JobStep)], pool, progress)


def _check_memory(opened: Opened, left: Sequence[Step]) -> None:
    """Whether what will be harvested on this machine fits into its memory."""
    table = opened.recipe.pool
    here = {"local": 1}.get(table.kind, table.workers or os.cpu_count() or 1)
    for step in left if table.kind == "local" or table.address == "local" else ():
        if isinstance(step, CacheStep) and step.facts.memory is not None:
            memory.check(f"caches.{step.name}", step.facts.memory, here)


def _cache_run(opened: Opened, step: CacheStep) -> CacheRun:
    table = opened.recipe.caches[step.name]
    return CacheRun(
        step=step,
        table=table,
        corpus=opened.corpora[table.corpus],
        model_dtype=opened.recipe.models[table.model].dtype,
        pool=opened.recipe.pool,
    )


def _run_jobs(opened: Opened, steps: list[JobStep], pool: Pool, progress: Progress) -> tuple[JobReceipt, ...]:
    """Jobs side by side; one that fails does not keep the others from finishing, and then fails the run."""
    if not steps:
        return ()
    meter = progress.meter("jobs", len(steps), "jobs")
    receipts = []
    for receipt in pool.map(JobWorker, [_task(opened, step) for step in steps], JOBS):
        meter.advance(1)
        log.info("%s: %s", receipt.name, receipt.error or f"done in {receipt.seconds:.1f} s")
        receipts.append(receipt)
    meter.close()
    if failed := [receipt for receipt in receipts if receipt.error]:
        kind = InputError if all(receipt.wrong_input for receipt in failed) else RunError
        raise kind("\n".join(f"job {receipt.name!r} failed: {receipt.error}" for receipt in failed))
    return tuple(receipts)


def _task(opened: Opened, step: JobStep) -> JobTask:
    return JobTask(
        name=step.name,
        kind=step.kind,
        config=msgspec.to_builtins(step.config, enc_hook=str),
        inputs=step.inputs,
        artifact=step.artifact,
        lake=opened.lake,
        mirror=opened.mirror,
    )
