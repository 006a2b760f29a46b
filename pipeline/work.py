"""Jobs as a task: opens caches, runs their module, leaves artifacts. Runs in whatever process a pool gives it."""

import functools
import logging
import time
import traceback
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

import jobs
from jobs.core.context import Context, Report, no_artifact, no_model
from storage import runs
from storage.artifact import Artifact, ArtifactWriter, Input, Record, versions
from storage.cache import Cache
from storage.checkpoint import Checkpoints
from storage.errors import GarnerError, InputError
from storage.lake import Lake
from storage.manifest import ModelIdentity
from storage.site import Site
from storage.value import Value, convert
from workers.pool import Place

if TYPE_CHECKING:
    from jobs.core.model import Model

    Load = Callable[[str, ModelIdentity], Model]

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
    mirror: str | None = None
    """Folder of this machine that keeps what is read of a remote lake."""
    made: dict[str, str] = {}
    """Who asked for it, and in which run."""
    previous: str = ""
    """The artifact that it goes on from, if any."""
    models: dict[str, str] = {}
    """Of the caches whose models it runs, by their names: where that model is read, hub id or folder."""
    artifacts: dict[str, str] = {}
    """Folder names of the artifacts that it stands on, by the names that its configuration has for them."""

    def __hash__(self) -> int:
        return hash(self.artifact)


class JobGroup(Value):
    """Studies for one worker, which reads for all of them at once; mostly one alone."""

    tasks: tuple[JobTask, ...]

    def __hash__(self) -> int:
        return hash(self.tasks)


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
    """Runs studies, a group per call. A study that fails says so in its receipt, so that others can finish."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def __call__(self, group: JobGroup) -> tuple[JobReceipt, ...]:
        """Run the studies; safe to repeat, for the first finished record stands."""
        if len(group.tasks) > 1:
            try:
                return _run(group.tasks, self._place)
            except Exception as error:  # one of them fails: which, is known when each is run by itself
                log.warning("%d studies together failed (%s): each by itself now", len(group.tasks), error)
        return tuple(self._alone(task) for task in group.tasks)

    def _alone(self, task: JobTask) -> JobReceipt:
        try:
            return _run([task], self._place)[0]
        except GarnerError as error:
            wrong_input = isinstance(error, InputError)
            return JobReceipt(name=task.name, artifact=task.artifact, error=str(error), wrong_input=wrong_input)
        except Exception:
            return JobReceipt(name=task.name, artifact=task.artifact, error=traceback.format_exc())


def _run(tasks: Sequence[JobTask], place: Place) -> tuple[JobReceipt, ...]:
    """One study, or several of one kind that read the same."""
    started = time.monotonic()
    module, lake = jobs.load(tasks[0].kind), Lake(tasks[0].lake, tasks[0].mirror)
    configs = [convert(task.config, module.Config, f"jobs.{task.name}") for task in tasks]
    writers = [ArtifactWriter(lake.artifact_folder(task.artifact)) for task in tasks]
    load = functools.cache(functools.partial(_load, place))
    device = "cpu" if place.device == "cpu" else "cuda"
    contexts = [_context(lake, task, writer, device, load) for task, writer in zip(tasks, writers, strict=True)]
    reports = module.run_all(configs, contexts) if len(tasks) > 1 else [module.run(configs[0], contexts[0])]
    seconds = (time.monotonic() - started) / len(tasks)
    return tuple(_kept(*one, seconds) for one in zip(tasks, writers, reports, strict=True))


def _context(lake: Lake, task: JobTask, writer: ArtifactWriter, device: str, load: "Load") -> Context:
    """What one study is given; `load` gives studies of one model the same."""
    caches = {name: _opened(lake, one) for name, one in task.inputs.items()}
    previous = lake.artifact(task.previous) if task.previous else None

    def open_model(cache: str) -> "Model":
        if cache not in task.models:
            return no_model(cache)
        return load(task.models[cache], caches[cache].record.identity.model)

    def open_artifact(job: str) -> Artifact:
        return lake.artifact(task.artifacts[job]) if job in task.artifacts else no_artifact(job)

    return Context(caches, writer, device, previous, open_model, open_artifact)


def _load(place: Place, source: str, made: ModelIdentity) -> "Model":
    from workers import live

    return live.load(source, made, place.device)


def _kept(task: JobTask, writer: ArtifactWriter, report: Report, seconds: float) -> JobReceipt:
    """Write the record; what was kept on the way to it goes."""
    record = Record(
        kind=task.kind,
        id=task.artifact.rpartition("-")[2],
        config=task.config,
        inputs=task.inputs,
        report=msgspec.to_builtins(report.finite),
        files=writer.files,
        versions=versions(),
        seconds=seconds,
        made={**task.made, "time": datetime.now(UTC).isoformat(timespec="seconds")},
        previous=task.previous,
        artifacts=task.artifacts,
    )
    kept = writer.close(record)
    Checkpoints(writer.folder).keep_only([])
    runs.forget(writer.folder)
    return JobReceipt(name=task.name, artifact=task.artifact, headline=kept.report["headline"], seconds=seconds)


def _opened(lake: Lake, one: Input) -> Cache:
    return lake.cache(one.cache).restricted(one.first, one.segments, [Site.parse(site) for site in one.sites])
