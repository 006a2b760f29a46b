"""A job as a task: opens its caches, runs its module, leaves its artifact. Runs in whatever process a pool gives it."""

import time
import traceback
from datetime import UTC, datetime
from typing import Any

import msgspec

import jobs
from jobs.core.context import Context
from storage.artifact import ArtifactWriter, Input, Record, versions
from storage.cache import Cache
from storage.errors import GarnerError, InputError
from storage.lake import Lake
from storage.site import Site
from storage.value import Value, convert
from workers.pool import Place


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
    mirror: str | None = None
    """Folder of this machine that keeps what is read of a remote lake."""
    made: dict[str, str] = {}
    """Who asked for it, and in which run."""
    previous: str = ""
    """The artifact that it goes on from, if any."""

    def __hash__(self) -> int:
        return hash(self.artifact)


class JobReceipt(Value):
    """What a job says when its record is written, or why it failed."""

    name: str
    artifact: str
    headline: str = ""
    error: str = ""
    """Why there is no artifact; empty if there is one."""
    wrong_input: bool = False
    """Whether the error is the user's to mend."""
    seconds: float = 0.0


class JobWorker:
    """Runs studies, one per call. A study that fails says so in its receipt, so that others can finish."""

    def __init__(self, place: Place) -> None:
        self._device = "cpu" if place.device == "cpu" else "cuda"

    def __call__(self, task: JobTask) -> JobReceipt:
        """Run one study; safe to repeat, for the first finished record stands."""
        try:
            return _run(task, self._device)
        except GarnerError as error:
            wrong_input = isinstance(error, InputError)
            return JobReceipt(name=task.name, artifact=task.artifact, error=str(error), wrong_input=wrong_input)
        except Exception:
            return JobReceipt(name=task.name, artifact=task.artifact, error=traceback.format_exc())


def _run(task: JobTask, device: str) -> JobReceipt:
    started = time.monotonic()
    module = jobs.load(task.kind)
    config = convert(task.config, module.Config, f"jobs.{task.name}")
    lake = Lake(task.lake, task.mirror)
    caches = {name: _opened(lake, one) for name, one in task.inputs.items()}
    writer = ArtifactWriter(lake.artifact_folder(task.artifact))
    previous = lake.artifact(task.previous) if task.previous else None
    report = module.run(config, Context(caches, writer, device, previous))
    record = Record(
        kind=task.kind,
        id=task.artifact.rpartition("-")[2],
        config=task.config,
        inputs=task.inputs,
        report=msgspec.to_builtins(report),
        files=writer.files,
        versions=versions(),
        seconds=time.monotonic() - started,
        made={**task.made, "time": datetime.now(UTC).isoformat(timespec="seconds")},
        previous=task.previous,
    )
    kept = writer.close(record)
    return JobReceipt(name=task.name, artifact=task.artifact, headline=kept.report["headline"], seconds=record.seconds)


def _opened(lake: Lake, one: Input) -> Cache:
    return lake.cache(one.cache).restricted(one.first, one.segments, [Site.parse(site) for site in one.sites])
