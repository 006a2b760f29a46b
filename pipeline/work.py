"""A job as a task: opens its caches, runs its module, leaves its artifact. Runs in whatever process a pool gives it."""

import logging
import time
from typing import Any

import msgspec

import jobs
from jobs.core.context import Context
from storage.artifact import ArtifactWriter, Input, Record, versions
from storage.lake import Lake
from storage.value import Value, convert

log = logging.getLogger(__name__)


class JobTask(Value):
    """One study to run; small enough to send."""

    name: str
    """In the recipe."""
    kind: str
    config: dict[str, Any]
    """The configuration as plain values, defaults included."""
    inputs: dict[str, Input]
    artifact: str
    lake: str
    device: str

    def __hash__(self) -> int:
        return hash(self.artifact)


class JobReceipt(Value):
    """What a job says when its record is written."""

    name: str
    artifact: str
    headline: str
    seconds: float


class JobWorker:
    """Runs studies, one per call."""

    def __call__(self, task: JobTask) -> JobReceipt:
        """Run one study; safe to repeat, for the first finished record stands."""
        started = time.monotonic()
        module = jobs.load(task.kind)
        config = convert(task.config, module.Config, f"jobs.{task.name}")
        lake = Lake(task.lake)
        caches = {name: lake.cache(one.cache).restricted(one.segments) for name, one in task.inputs.items()}
        writer = ArtifactWriter(lake.artifact_folder(task.artifact))
        report = module.run(config, Context(caches, writer, task.device))
        record = Record(
            kind=task.kind,
            id=task.artifact.rpartition("-")[2],
            config=task.config,
            inputs=task.inputs,
            report=msgspec.to_builtins(report),
            files=writer.files,
            versions=versions(),
            seconds=time.monotonic() - started,
        )
        kept = writer.close(record)
        return JobReceipt(
            name=task.name, artifact=task.artifact, headline=kept.report["headline"], seconds=record.seconds
        )
