"""Jobs on the pool: studies of a sweep that read the same batches go to one worker, which reads the cache once."""

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import msgspec

import jobs
from pipeline.journal import Journal
from pipeline.order import waves
from pipeline.plan import JobStep
from pipeline.progress import Progress, eta
from pipeline.recipe import Opened
from pipeline.work import JobGroup, JobReceipt, JobTask, JobWorker
from storage import runs
from storage.errors import InputError, RunError
from storage.lake import Lake
from storage.process import owner
from storage.runs import StepRun
from workers.pool import Needs, Pool

log = logging.getLogger(__name__)

_JOBS = Needs(timed=False, copies=False)
_EVERY = 10.0
"""Seconds between two looks at how far jobs are."""


def run_jobs(
    opened: Opened, steps: list[JobStep], pool: Pool, progress: Progress, journal: Journal
) -> tuple[JobReceipt, ...]:
    """Jobs side by side, behind those that they stand on.

    One that fails keeps none from finishing but those that stand on it, and then fails the run.
    """
    if not steps:
        return ()
    meter = progress.meter("jobs", len(steps), "jobs")
    tasks = {step.artifact: _task(opened, step, journal.start.id) for step in steps}
    receipts: list[JobReceipt] = []
    with _followed(opened, list(tasks.values()), progress):
        for wave in waves({name: task.artifacts.values() for name, task in tasks.items()}):
            for receipt in _wave([tasks[name] for name in wave], receipts, pool, opened.recipe.pool.together):
                meter.advance(1)
                log.info("%s: %s", receipt.name, receipt.error or f"done in {receipt.seconds:.1f} s")
                receipts.append(receipt)
                journal.steps.append(_job_run(receipt, steps))
    meter.close()
    if failed := [receipt for receipt in receipts if receipt.error]:
        kind = InputError if all(receipt.wrong_input for receipt in failed) else RunError
        raise kind("\n".join(f"job {receipt.name!r} failed: {receipt.error}" for receipt in failed))
    return tuple(receipts)


def _wave(tasks: Sequence[JobTask], before: Sequence[JobReceipt], pool: Pool, together: int) -> Iterator[JobReceipt]:
    """The receipts of jobs that wait for none but those `before`."""
    lost = {receipt.artifact: receipt for receipt in before if receipt.error}
    able = []
    for task in tasks:
        if (cause := next((lost[one] for one in task.artifacts.values() if one in lost), None)) is None:
            able.append(task)
        else:
            error = f"it stands on job {cause.name!r}, which failed"
            yield JobReceipt(name=task.name, artifact=task.artifact, error=error, wrong_input=cause.wrong_input)
    for some in pool.map(JobWorker, grouped(able, together), _JOBS) if able else ():
        yield from some


def grouped(tasks: Sequence[JobTask], most: int) -> list[JobGroup]:
    """The tasks, up to `most` together where their job says that they read the same batches of the same inputs."""
    groups: dict[object, list[JobTask]] = {}
    for number, task in enumerate(tasks):
        key = jobs.together(task.kind, task.config)
        read = [task.inputs, task.previous, task.artifacts]
        shared = number if key is None else (task.kind, key, msgspec.json.encode(read))
        groups.setdefault(shared, []).append(task)
    return [
        JobGroup(tasks=tuple(some[at : at + size]))
        for some in groups.values()
        for size in [-(-len(some) // -(-len(some) // most))]  # of even size: 9 of at most 8 are 5 and 4
        for at in range(0, len(some), size)
    ]


@contextmanager
def _followed(opened: Opened, tasks: Sequence[JobTask], progress: Progress) -> Iterator[None]:
    """Says now and then how far each job is that tells it."""
    over = threading.Event()
    thread = threading.Thread(target=_follow, args=(opened, tasks, progress, over), name="garner-jobs", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _follow(opened: Opened, tasks: Sequence[JobTask], progress: Progress, over: threading.Event) -> None:
    lake, said = Lake(opened.lake), dict[str, runs.Progress]()
    while not over.wait(_EVERY):
        for task in tasks:
            try:
                told = runs.told(lake.artifact_folder(task.artifact))
            except Exception as error:  # it is only talk: the job itself says what is wrong with the store
                log.debug("%s: how far it is could not be read (%s)", task.name, error)
                continue
            if told is not None and told != said.get(task.name):
                said[task.name] = told
                _say(task.name, told)
                if progress.listener is not None:
                    progress.listener(msgspec.structs.replace(told, step=task.name))


def _say(name: str, told: runs.Progress) -> None:
    left, note = eta(told.seconds, told.done, told.total), told.note and f", {told.note}"
    log.info("%s: %s of %s %s%s, eta %s", name, f"{told.done:,}", f"{told.total:,}", told.unit, note, left)


def _job_run(receipt: JobReceipt, steps: Sequence[JobStep]) -> StepRun:
    kind = next(step.kind for step in steps if step.name == receipt.name)
    return StepRun(
        name=receipt.name,
        kind=kind,
        folder=receipt.artifact,
        seconds=receipt.seconds,
        headline=receipt.headline,
        error=receipt.error,
    )


def _task(opened: Opened, step: JobStep, run_id: str) -> JobTask:
    return JobTask(
        name=step.name,
        kind=step.kind,
        config=msgspec.to_builtins(step.config, enc_hook=str),
        inputs=step.inputs,
        artifact=step.artifact,
        lake=opened.lake,
        mirror=opened.mirror,
        made={"owner": owner(), "run": run_id},
        previous=step.previous,
        models=step.models,
        artifacts=step.artifacts,
    )
