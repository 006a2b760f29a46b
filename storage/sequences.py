"""What a harvester reads: the sequences that touch a range of rows, whole, from the token parts."""

from collections import OrderedDict
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from storage.lines import lists, positions, selected
from storage.manifest import Part
from storage.segment import Segment
from storage.tokens import read_part

if TYPE_CHECKING:
    import pyarrow as pa

_KEPT = 2
"""Parts kept decoded; neighbouring units read the same ones."""


class Sequence(NamedTuple):
    """One sequence: what the model runs over at once."""

    start: int
    """Its first row in the segment."""
    input_ids: np.ndarray
    """int32 [length]."""
    image: bytes | None
    rows: np.ndarray | None = None
    """Positions of the tokens that are rows, int32, ascending; None where all of them are."""
    roles: np.ndarray | None = None
    """A code of `storage.tokens.ROLES` for each token, int8 [length]; None where it is not known."""

    @property
    def n_rows(self) -> int:
        """How many of its tokens are rows."""
        return len(self.input_ids if self.rows is None else self.rows)


class _Decoded(NamedTuple):
    starts: np.ndarray
    """First row in the segment of every sequence, and one past the last; [n + 1]."""
    tokens: np.ndarray
    """First token of every sequence in `input_ids`, and one past the last; [n + 1]."""
    input_ids: np.ndarray
    positions: np.ndarray | None
    """Of every row in its sequence; None where every token is a row."""
    roles: list[np.ndarray | None]
    """Of every sequence; empty where none has any."""
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
            yield _sequence(decoded, base, n)


def _sequence(decoded: _Decoded, base: int, n: int) -> Sequence:
    start, stop = decoded.starts[n] - base, decoded.starts[n + 1] - base
    return Sequence(
        start=int(decoded.starts[n]),
        input_ids=decoded.input_ids[decoded.tokens[n] : decoded.tokens[n + 1]],
        image=decoded.images[n] if decoded.images else None,
        rows=None if decoded.positions is None else decoded.positions[start:stop],
        roles=decoded.roles[n] if decoded.roles else None,
    )


def _decode(segment: Segment, part: Part) -> _Decoded:
    columns = ["sequence", "start", "length", "rows", "input_ids", "roles", "image"]
    table = read_part(segment.folder, part, columns)
    firsts = np.unique(table["sequence"].to_numpy(), return_index=True)[1]
    ids, lengths = lists(table, "input_ids")
    tokens = np.append(0, np.cumsum(lengths, dtype=np.int64))
    return _Decoded(
        starts=np.append(table["start"].to_numpy()[firsts], part.rows) + part.first_row,
        tokens=np.append(tokens[firsts], tokens[-1]),
        input_ids=ids,
        positions=positions(table) if selected(table) else None,
        roles=_roles(table),
        images=table["image"].take(firsts).to_pylist() if table["image"].null_count < len(table) else [],
    )


def _roles(table: "pa.Table") -> list[np.ndarray | None]:
    """Of every sequence; only chats have roles, and a sequence of a chat is one line."""
    if table["roles"].null_count == len(table):
        return []
    values, lengths = lists(table, "roles")
    pieces = np.split(values, np.cumsum(lengths)[:-1])
    known = table["roles"].is_valid().to_pylist()
    return [piece if given else None for piece, given in zip(pieces, known, strict=True)]
