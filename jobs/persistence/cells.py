"""The map: a value for each pair of sites, measure and control, and its table."""

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from storage.artifact import Artifact
from storage.errors import InputError
from storage.site import Site

Measure = Literal["pearson", "cka", "neighbours", "rotation"]
Control = Literal["raw", "centred", "without_top"]

MEASURES: tuple[Measure, ...] = ("pearson", "cka", "neighbours", "rotation")
CONTROLS: tuple[Control, ...] = ("raw", "centred", "without_top")


@dataclass(frozen=True)
class Cell:
    """One measure of one pair of sites."""

    source: Site
    target: Site
    measure: Measure
    control: Control
    value: float
    null: float
    """Mean over permutations of the target's tokens."""
    null_sd: float

    @property
    def place(self) -> tuple[Site, Site, int, int]:
        """Where it stands in the table."""
        return self.source, self.target, MEASURES.index(self.measure), CONTROLS.index(self.control)


def table(found: Sequence[Cell]) -> pa.Table:
    """A line each."""
    return pa.Table.from_pylist(
        [asdict(cell) | {"source": str(cell.source), "target": str(cell.target)} for cell in found]
    )


def from_table(artifact: Artifact) -> list[Cell]:
    """The map that another `persistence` job left."""
    if artifact.record.kind != "persistence":
        raise InputError(
            f"artifact {artifact.record.id} is of kind {artifact.record.kind}: name persistence jobs in parts"
        )
    lines = pq.read_table(io.BytesIO(artifact.read("map.parquet"))).to_pylist()
    return [
        Cell(**line | {"source": Site.parse(line["source"]), "target": Site.parse(line["target"])}) for line in lines
    ]
