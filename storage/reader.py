"""All rows of a site as NumPy, over the cache's segments: slices, gathers, and a reproducible shuffle.

N: rows, D: width, W: entries of a stored row.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import accumulate
from typing import Any, Literal, Unpack, overload

import numpy as np

from storage.dtype import decode, logical, stored
from storage.manifest import Seal
from storage.moments import Moments, merge
from storage.segment import Segment
from storage.shards import Piece, Shards
from storage.shuffle import Order, Shuffled
from storage.site import Site

_COPIERS = 4
"""Threads that copy from maps; more than one only helps where a copy waits for the disk or for fresh pages."""
_WORTH_THREADS = 8 * 2**20
"""Bytes from which on a copy is shared between threads."""


class Activations:
    """All rows of one site, over the cache's segments; slices and gathers give NumPy arrays."""

    def __init__(self, site: Site, segments: Sequence[Segment], mirror: str | None = None) -> None:
        self.site = site
        self._seals: list[Seal] = [segment.read_seal(site) for segment in segments]
        self._shards = [Shards(s.array(site), seal, mirror) for s, seal in zip(segments, self._seals, strict=True)]
        self._firsts = np.array(list(accumulate((seal.layout.rows for seal in self._seals), initial=0)))
        self._layout = self._seals[0].layout

    @property
    def d(self) -> int:
        """Width of a row."""
        return self._layout.d

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, width)."""
        return int(self._firsts[-1]), self.d

    @property
    def dtype(self) -> np.dtype:
        """NumPy dtype of the rows (bfloat16 through ml_dtypes; int8 rows decode to float32)."""
        return logical(self._layout.dtype)

    @cached_property
    def moments(self) -> Moments:
        """Statistics of all rows, as recorded while harvesting: nothing is read."""
        return merge(seal.moments for seal in self._seals)

    @property
    def chunk(self) -> int:
        """Rows of an inner chunk: the smallest piece that is read and checked."""
        return min(seal.layout.rows_per_chunk for seal in self._seals)

    @cached_property
    def edges(self) -> np.ndarray:
        """First row of every inner chunk, and one past the last row, int64: what is shuffled as a block."""
        firsts = [
            int(base) + np.arange(0, seal.layout.rows, seal.layout.rows_per_chunk)
            for base, seal in zip(self._firsts, self._seals, strict=False)
        ]
        return np.concatenate([*firsts, self._firsts[-1:]]).astype(np.int64)

    @property
    def row_bytes(self) -> int:
        """Bytes of a stored row."""
        return self._layout.row_bytes

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray | int) -> np.ndarray:
        """Rows [N, D]: a slice, any int64 numbers in any order, or those where a bool mask holds.

        A slice within one mapped shard is a view: what is written into it is seen by later reads of this object.
        """
        if isinstance(rows, slice):
            first, stop, step = rows.indices(len(self))
            if step != 1:
                return self._gather(np.arange(first, stop, step))
            return self._range(first, max(first, stop))
        if isinstance(rows, int | np.integer):
            return self._gather(np.array([int(rows)]))[0]
        return self._gather(self._numbers(np.asarray(rows)))

    @overload
    def shuffled(self, batch: int = ..., **order: Unpack[Order]) -> Shuffled[np.ndarray]: ...
    @overload
    def shuffled(
        self, batch: int = ..., *, with_rows: Literal[True], **order: Unpack[Order]
    ) -> Shuffled[tuple[np.ndarray, np.ndarray]]: ...
    def shuffled(self, batch: int = 4096, *, with_rows: bool = False, **order: Unpack[Order]) -> Shuffled[Any]:
        """Every row once an epoch in a reproducible random order: batches x_BD, or (rows_B, x_BD) `with_rows`.

        `seed`, `epochs`, `keep` (bool mask over rows), `rank`, `world_size`, `position`: see `storage.shuffle`.
        """
        return Shuffled(self, batch, with_rows, order)

    def room(self, rows: int) -> np.ndarray:
        """Space for so many stored rows, [rows, W]."""
        return np.empty((rows, self._layout.width), stored(self._layout.dtype))

    def decoded(self, x_NW: np.ndarray) -> np.ndarray:
        """Stored rows as numbers, [N, D]."""
        return decode(self._layout.dtype, x_NW, self.d)

    def fill(self, blocks: Sequence[tuple[int, int]], out_NW: np.ndarray) -> None:
        """Stored rows of row ranges, one range after the other, many fetched at a time."""
        edges = accumulate((stop - first for first, stop in blocks), initial=0)
        pieces: dict[int, list[Piece]] = {}
        for (first, stop), at in zip(blocks, edges, strict=False):
            for segment, a, b in self._pieces(first, stop):
                to = at + a + int(self._firsts[segment]) - first
                pieces.setdefault(segment, []).append((a, b, out_NW[to : to + b - a]))
        for segment, some in pieces.items():
            self._fill(self._shards[segment], some)

    def _fill(self, shards: Shards, pieces: list[Piece]) -> None:
        """Maps are copied by several threads where that is worth starting them; ranges are fetched many at a time."""
        size = sum(stop - first for first, stop, _ in pieces) * self.row_bytes
        if not shards.at_hand or size < _WORTH_THREADS or len(pieces) == 1:
            shards.fill(pieces)
            return
        with ThreadPoolExecutor(_COPIERS) as pool:
            for _ in pool.map(shards.fill, [pieces[n::_COPIERS] for n in range(_COPIERS)]):
                pass

    def _range(self, first: int, stop: int) -> np.ndarray:
        pieces = list(self._pieces(first, stop))
        if len(pieces) == 1 and self._shards[pieces[0][0]].mapped:
            segment, a, b = pieces[0]
            return self.decoded(self._shards[segment].view(a, b))
        out_NW = self.room(stop - first)
        self.fill([(first, stop)], out_NW)
        return self.decoded(out_NW)

    def _pieces(self, first: int, stop: int) -> list[tuple[int, int, int]]:
        """(segment, first, stop) within single shards, that make up rows [first, stop)."""
        found = []
        for segment, shards in enumerate(self._shards):
            base = int(self._firsts[segment])
            a, b = max(first - base, 0), min(stop - base, shards.layout.rows)
            while a < b:
                edge = min(b, (a // shards.layout.rows_per_shard + 1) * shards.layout.rows_per_shard)
                found.append((segment, a, edge))
                a = edge
        return found

    def _numbers(self, rows: np.ndarray) -> np.ndarray:
        if rows.dtype == bool and rows.shape == (len(self),):
            return np.flatnonzero(rows)
        if rows.ndim != 1 or (len(rows) and rows.dtype.kind not in "iu"):
            raise IndexError(f"rows are {rows.dtype} {rows.shape}; wanted integers [n], or bool [{len(self)}]")
        return rows.astype(np.int64)

    def _gather(self, rows_N: np.ndarray) -> np.ndarray:
        if len(rows_N) and not (rows_N.min() >= 0 and rows_N.max() < len(self)):
            raise IndexError(f"rows {rows_N.min()} to {rows_N.max()} asked of {self.site}, which has {len(self)}")
        rising = bool((np.diff(rows_N) >= 0).all())
        order_N = np.arange(len(rows_N)) if rising else np.argsort(rows_N, kind="stable")
        sorted_N, sorted_NW = rows_N[order_N], self.room(len(rows_N))
        edges = np.searchsorted(sorted_N, self._firsts)
        for shards, base, lo, hi in zip(self._shards, self._firsts, edges, edges[1:], strict=False):
            if lo < hi:
                shards.gather(sorted_N[lo:hi] - base, sorted_NW[lo:hi])
        if rising:
            return self.decoded(sorted_NW)
        out_NW = np.empty_like(sorted_NW)
        out_NW[order_N] = sorted_NW
        return self.decoded(out_NW)
