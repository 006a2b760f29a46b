"""What a job is given and what it gives back."""

import io
from collections.abc import Callable, Mapping
from math import isfinite
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import save

from storage.artifact import Artifact, ArtifactWriter
from storage.cache import Cache
from storage.checkpoint import Checkpoints
from storage.errors import RunError
from storage.runs import Progress, tell
from storage.site import Site
from storage.value import Value

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.figure import Figure

    from jobs.core.model import Model


class Read(Value):
    """One cache that a job reads, by its name in the recipe, and the sites it needs there."""

    cache: str
    """The cache's name in the recipe."""
    sites: tuple[Site, ...] = ()
    """Sites that must be sealed; none means every site the cache has."""


class Metric(Value):
    """One number with what it would be if there were nothing to find."""

    name: str
    """Short name, unique in the report."""
    value: float
    """What was measured, on data that the fit did not see."""
    null: float | None = None
    """The same where there is nothing to find (shuffled labels, permuted rows); none if that has no meaning."""
    about: str = ""
    """What it is, in a few words: definition and unit."""


class Report(Value):
    """What a job found: one line, the metrics, and remarks a reader needs."""

    headline: str
    """The result in one sentence with its numbers."""
    metrics: tuple[Metric, ...]
    """The numbers, the most telling first."""
    notes: tuple[str, ...] = ()
    """Caveats and definitions, a sentence each."""

    @property
    def finite(self) -> "Report":
        """Without what is not a number, as it cannot be written down; a note says what that was."""
        kept = tuple(_finite_null(metric) for metric in self.metrics if isfinite(metric.value))
        lost = [metric.name for metric in self.metrics if not isfinite(metric.value)]
        note = (f"Not defined here, or not finite: {', '.join(lost)}.",) if lost else ()
        return Report(headline=self.headline, metrics=kept, notes=(*self.notes, *note))


def _finite_null(metric: Metric) -> Metric:
    if metric.null is None or isfinite(metric.null):
        return metric
    return Metric(name=metric.name, value=metric.value, about=metric.about)


def no_model(cache: str) -> "Model":
    """Refuses a model that the job did not say it would ask for."""
    raise RunError(f"the job asks for the model of cache {cache!r}: name the cache in the job's `models(config)`")


def no_artifact(job: str) -> Artifact:
    """Refuses an artifact that the job did not say it would read."""
    raise RunError(f"the job asks for what job {job!r} left: name it in the job's `artifacts(config)`")


class Context:
    """The caches a job named, the device it may use, the artifact it fills, and the one it goes on from."""

    def __init__(
        self,
        caches: Mapping[str, Cache],
        artifact: ArtifactWriter,
        device: str,
        previous: Artifact | None = None,
        open_model: "Callable[[str], Model]" = no_model,
        open_artifact: Callable[[str], Artifact] = no_artifact,
    ) -> None:
        """With `previous`, which is the last of its series, the caches show only the segments that one did not see."""
        self.device = device
        self.previous = previous
        self._caches = caches
        self._artifact = artifact
        self._open_model = open_model
        self._open_artifact = open_artifact

    def cache(self, name: str) -> Cache:
        """An open cache by its name in the recipe."""
        return self._caches[name]

    def model(self, cache: str) -> "Model":
        """The live model that made a cache, which the job's `models(config)` names; loaded when first asked for."""
        return self._open_model(cache)

    def artifact(self, job: str) -> Artifact:
        """What another job of the recipe left, which the job's `artifacts(config)` names."""
        return self._open_artifact(job)

    @property
    def checkpoints(self) -> Checkpoints:
        """Where a long job keeps what it would need to go on after a kill."""
        return Checkpoints(self._artifact.folder)

    def tell(self, progress: Progress) -> None:
        """Say how far the job is; whoever runs it shows that now and then."""
        tell(self._artifact.folder, progress)

    def save(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep arrays as `<name>.safetensors`."""
        contiguous = {key: np.asarray(array, order="C") for key, array in arrays.items()}  # and a number stays one
        self._artifact.write(f"{name}.safetensors", save(contiguous))

    def table(self, name: str, table: "pa.Table") -> None:
        """Keep a table as `<name>.parquet`."""
        import pyarrow.parquet as pq

        sink = io.BytesIO()
        pq.write_table(table, sink, compression="zstd")
        self._artifact.write(f"{name}.parquet", sink.getvalue())

    def page(self, name: str, html: str) -> None:
        """Keep a page as `<name>.html`; it opens from disk and asks for nothing."""
        self._artifact.write(f"{name}.html", html.encode())

    def figure(self, name: str, figure: "Figure", caption: str) -> None:
        """Keep a figure as `figures/<name>.svg`; `caption` says what a reader should see in it."""
        from jobs.core.figures import style

        sink = io.BytesIO()
        with style():  # its font and salt settings are read when a figure is written
            figure.savefig(sink, format="svg", metadata={"Date": None})
        self._artifact.write(f"figures/{name}.svg", sink.getvalue(), caption=caption)
