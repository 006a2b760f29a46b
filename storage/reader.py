"""Rows of a site as NumPy: mapped from local shards, fetched by range from object storage, checked on first touch."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import accumulate
from typing import Any, Literal, TypeVar, Unpack, overload

import google_crc32c
import numpy as np

from storage.dtype import logical
from storage.errors import RunError
from storage.manifest import Seal
from storage.moments import Moments, merge
from storage.segment import Segment
from storage.shard import index, key
from storage.shuffle import Order, Shuffled
from storage.site import Site
from storage.url import Folder

T = TypeVar("T")

_IN_FLIGHT = 32
"""Ranged reads under way at once; object stores answer slowly but many at a time."""


class Shards:
    """One segment's rows of one site, in row numbers of that segment."""

    def __init__(self, folder: Folder, seal: Seal) -> None:
        self.folder = folder
        self.layout = seal.layout
        self._marks = seal.shards
        self._maps: dict[int, np.ndarray] = {}
        self._checked = [np.zeros(len(mark.chunks), dtype=bool) for mark in seal.shards]
        self._lock = threading.Lock()

    @property
    def mapped(self) -> bool:
        """Whether rows come from memory maps, where a gather costs no more than a range."""
        return self.folder.local is not None

    def read(self, first: int, stop: int) -> np.ndarray:
        """Rows [first, stop) of one shard, [n, d]; a view of the map where there is one."""
        shard = first // self.layout.rows_per_shard
        a, b = first - shard * self.layout.rows_per_shard, stop - shard * self.layout.rows_per_shard
        rows = self.layout.rows_per_chunk
        chunks = range(a // rows, -(-b // rows))
        if self.mapped:
            x_RD = self._map(shard)
            self._check(shard, chunks, x_RD)
            return x_RD[a:b]
        x_RD = self._fetch(shard, chunks)
        return x_RD[a - chunks.start * rows : b - chunks.start * rows]

    def gather(self, rows_N: np.ndarray, out_ND: np.ndarray) -> None:
        """Rows of one shard, sorted, into `out_ND`; reads only the chunks they lie in."""
        shard = int(rows_N[0]) // self.layout.rows_per_shard
        local_N = rows_N - shard * self.layout.rows_per_shard
        chunk_N = local_N // self.layout.rows_per_chunk
        if self.mapped:
            x_RD = self._map(shard)
            self._check(shard, np.unique(chunk_N).tolist(), x_RD)
            np.take(x_RD, local_N, axis=0, out=out_ND)
            return
        for run in _runs(np.unique(chunk_N)):
            here_N = (chunk_N >= run.start) & (chunk_N < run.stop)
            out_ND[here_N] = self._fetch(shard, run)[local_N[here_N] - run.start * self.layout.rows_per_chunk]

    def _map(self, shard: int) -> np.ndarray:
        """The shard's payload as rows; its length and index are checked before it is trusted."""
        if shard not in self._maps:
            assert self.folder.local is not None
            path = self.folder.local / key(shard)
            data = np.memmap(path, dtype=np.uint8, mode="c")
            footer = index(self.layout, shard)
            if len(data) != self._marks[shard].size or data[-len(footer) :].tobytes() != footer:
                raise RunError(f"{path} is damaged: it has {len(data)} bytes or another index than its seal says")
            payload = data[: -len(footer)]
            self._maps[shard] = payload.view(logical(self.layout.dtype)).reshape(-1, self.layout.d)
        return self._maps[shard]

    def _fetch(self, shard: int, chunks: range) -> np.ndarray:
        size = self.layout.rows_per_chunk * self.layout.row_bytes
        data = self.folder.read(key(shard), chunks.start * size, chunks.stop * size)
        # a copy, for rows are writable wherever they come from, and torch warns of those that are not
        x_RD = np.frombuffer(bytearray(data), logical(self.layout.dtype)).reshape(-1, self.layout.d)
        self._check(shard, chunks, x_RD, base=chunks.start)
        return x_RD

    def _check(self, shard: int, chunks: Sequence[int], x_RD: np.ndarray, base: int = 0) -> None:
        """Compare the checksums of chunks touched for the first time; fetched ones are new bytes every time."""
        checked, rows = self._checked[shard], self.layout.rows_per_chunk
        for chunk in chunks:
            if checked[chunk] and self.mapped:
                continue
            at = (chunk - base) * rows
            if google_crc32c.value(x_RD[at : at + rows].view(np.uint8).reshape(-1)) != self._marks[shard].chunks[chunk]:
                first = shard * self.layout.rows_per_shard + chunk * rows
                raise RunError(
                    f"{self.folder / key(shard)} is damaged: rows {first} to {first + rows} do not match their "
                    "checksum; run `garner verify` for the whole extent"
                )
            checked[chunk] = True


class Activations:
    """All rows of one site, over the cache's segments; slices and gathers give NumPy arrays."""

    def __init__(self, site: Site, segments: Sequence[Segment]) -> None:
        self.site = site
        self._seals = [segment.read_seal(site) for segment in segments]
        self._shards = [Shards(s.array(site), seal) for s, seal in zip(segments, self._seals, strict=True)]
        self._firsts = np.array(list(accumulate((seal.layout.rows for seal in self._seals), initial=0)))

    @property
    def d(self) -> int:
        """Width of a row."""
        return self._seals[0].layout.d

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, width)."""
        return int(self._firsts[-1]), self.d

    @property
    def dtype(self) -> np.dtype:
        """NumPy dtype of the rows (bfloat16 through ml_dtypes)."""
        return logical(self._seals[0].layout.dtype)

    @cached_property
    def moments(self) -> Moments:
        """Moments of all rows, as recorded while harvesting."""
        return merge(seal.moments for seal in self._seals)

    @property
    def chunk(self) -> int:
        """Rows of an inner chunk: the smallest piece that is read and checked."""
        return min(seal.layout.rows_per_chunk for seal in self._seals)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray | int) -> np.ndarray:
        """Rows [n, d]: a slice (a view where one shard holds it), or any int64 numbers in any order."""
        if isinstance(rows, slice):
            first, stop, step = rows.indices(len(self))
            if step != 1:
                return self._gather(np.arange(first, stop, step))
            return self._range(first, max(first, stop))
        if isinstance(rows, int | np.integer):
            return self._gather(np.array([int(rows)]))[0]
        return self._gather(np.asarray(rows, dtype=np.int64))

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

    def read_blocks(self, blocks: Sequence[tuple[int, int]]) -> np.ndarray:
        """Row ranges one after the other, [n, d], fetched many at a time."""
        edges = list(accumulate((stop - first for first, stop in blocks), initial=0))
        out_ND = np.empty((edges[-1], self.d), self.dtype)
        pieces = [
            (segment, a, b, out_ND[at + a + int(self._firsts[segment]) - first :])
            for (first, stop), at in zip(blocks, edges, strict=False)
            for segment, a, b in self._pieces(first, stop)
        ]
        self._each(lambda piece: _copy(self._shards[piece[0]].read(piece[1], piece[2]), piece[3]), pieces)
        return out_ND

    def _range(self, first: int, stop: int) -> np.ndarray:
        pieces = list(self._pieces(first, stop))
        if len(pieces) == 1:
            segment, a, b = pieces[0]
            return self._shards[segment].read(a, b)
        return self.read_blocks([(first, stop)])

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

    def _gather(self, rows_N: np.ndarray) -> np.ndarray:
        if len(rows_N) and not (rows_N.min() >= 0 and rows_N.max() < len(self)):
            raise IndexError(f"rows {rows_N.min()} to {rows_N.max()} asked of {self.site}, which has {len(self)}")
        order_N = np.argsort(rows_N, kind="stable")
        sorted_N = rows_N[order_N]
        sorted_ND = np.empty((len(rows_N), self.d), self.dtype)
        segment_N = np.searchsorted(self._firsts, sorted_N, side="right") - 1
        jobs = []
        for segment, shards in enumerate(self._shards):
            at = np.flatnonzero(segment_N == segment)
            local_N = sorted_N[at] - int(self._firsts[segment])
            edges = np.flatnonzero(np.diff(local_N // shards.layout.rows_per_shard)) + 1
            for piece in np.split(np.arange(len(at)), edges):
                if len(piece):
                    lo, hi = int(at[piece[0]]), int(at[piece[-1]]) + 1
                    jobs.append((shards, local_N[piece], sorted_ND[lo:hi]))
        self._each(lambda job: job[0].gather(job[1], job[2]), jobs)
        out_ND = np.empty_like(sorted_ND)
        out_ND[order_N] = sorted_ND
        return out_ND

    def _each(self, read: Callable[[T], None], pieces: Sequence[T]) -> None:
        """In this thread where rows are mapped; many at once where each costs a round trip."""
        if len(pieces) < 2 or self._shards[0].mapped:
            for piece in pieces:
                read(piece)
            return
        with ThreadPoolExecutor(min(_IN_FLIGHT, len(pieces))) as pool:
            for _ in pool.map(read, pieces):
                pass


def _copy(x_ND: np.ndarray, out_ND: np.ndarray) -> None:
    out_ND[: len(x_ND)] = x_ND


def _runs(chunks: np.ndarray) -> list[range]:
    """Neighbouring chunks joined, so that each run is one ranged read."""
    pieces = np.split(chunks, np.flatnonzero(np.diff(chunks) > 1) + 1)
    return [range(int(piece[0]), int(piece[-1]) + 1) for piece in pieces if len(piece)]
