"""What a harvester reads: the sequences that touch a range of rows, whole, from the token parts."""

from collections import OrderedDict
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from storage.manifest import Part
from storage.segment import Segment
from storage.tokens import read_part

_KEPT = 2
"""Parts kept decoded; neighbouring units read the same ones."""


class Sequence(NamedTuple):
    """One sequence: what the model runs over at once."""

    start: int
    """Its first row in the segment."""
    input_ids: np.ndarray
    """int32 [length]."""
    image: bytes | None


class _Decoded(NamedTuple):
    starts: np.ndarray
    """First row in the segment of every sequence, and one past the last; [n + 1]."""
    input_ids: np.ndarray
    images: list[bytes | None]


class Sequences:
    """Reads sequences of one segment, keeping the parts it used last."""

    def __init__(self, segment: Segment) -> None:
        self._segment = segment
        self._parts: OrderedDict[str, _Decoded] = OrderedDict()

    def touching(self, first: int, stop: int) -> Iterator[Sequence]:
        """All sequences with a row in [first, stop), in order."""
        for part in self._segment.plan.parts:
            if part.first_row < stop and part.first_row + part.rows > first:
                yield from _overlapping(self._decoded(part), part.first_row, first, stop)

    def _decoded(self, part: Part) -> _Decoded:
        if part.path not in self._parts:
            self._parts[part.path] = _decode(self._segment, part)
            while len(self._parts) > _KEPT:
                self._parts.popitem(last=False)
        self._parts.move_to_end(part.path)
        return self._parts[part.path]


def _overlapping(decoded: _Decoded, base: int, first: int, stop: int) -> Iterator[Sequence]:
    starts = decoded.starts
    low = int(np.searchsorted(starts, first, side="right")) - 1
    for n in range(max(low, 0), len(starts) - 1):
        if starts[n] >= stop:
            return
        if starts[n + 1] > max(first, starts[n]):
            ids = decoded.input_ids[starts[n] - base : starts[n + 1] - base]
            yield Sequence(int(starts[n]), ids, decoded.images[n] if decoded.images else None)


def _decode(segment: Segment, part: Part) -> _Decoded:
    table = read_part(segment.folder, part, ["sequence", "start", "input_ids", "image"])
    firsts = np.unique(table["sequence"].to_numpy(), return_index=True)[1]
    starts = np.append(table["start"].to_numpy()[firsts], part.rows) + part.first_row
    ids = table["input_ids"].combine_chunks().flatten().to_numpy()
    images = table["image"].take(firsts).to_pylist() if table["image"].null_count < len(table) else []
    return _Decoded(starts, ids, images)
