"""Stored rows of one site in one segment: mapped where the shard is on this machine, else fetched by byte range.

Every inner chunk is checked before a row of it is given out. R: rows of a shard, W: entries of a stored row.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby, pairwise, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from storage.errors import RunError
from storage.manifest import Seal
from storage.shard import checksum, decompressed, index, key, lengths
from storage.url import Folder

_FETCHED = 32 * 2**20
"""Bytes fetched together; what a large read holds beside its result is twice that."""
_MAPS = 256
"""Shards of one site mapped at once: each map holds a file descriptor, of which a process often has 1,024."""
_RUN = 4
"""Most neighbouring chunks of one ranged read; a long range is cut, so that several connections share it."""

Piece = tuple[int, int, np.ndarray]
"""(first, stop, out): rows of one shard, and where they go, [stop - first, W]."""


class Shards:
    """The shards of one sealed site of one segment, in row numbers of that segment."""

    def __init__(self, folder: Folder, seal: Seal, mirror: str | None = None) -> None:
        """`mirror` is a local folder in which whole shards of a remote lake are kept once read."""
        self.folder = folder
        self.layout = seal.layout
        self._marks, self._mirror = seal.shards, mirror
        self._objects: OrderedDict[int, np.ndarray] = OrderedDict()
        self._checked = [np.zeros(len(mark.chunks), dtype=bool) for mark in seal.shards]
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """Without maps and lock, so that a reader can be sent to another process."""
        return {name: value for name, value in vars(self).items() if name not in ("_objects", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _objects=OrderedDict(), _lock=threading.Lock())

    @property
    def at_hand(self) -> bool:
        """Whether shards are files of this machine."""
        return self.folder.local is not None or self._mirror is not None

    @property
    def mapped(self) -> bool:
        """Whether rows are views of memory maps, where a gather costs no more than a range."""
        return self.at_hand and self.layout.compress == "none"

    def view(self, first: int, stop: int) -> np.ndarray:
        """Rows [first, stop) of one shard as a view of its map; for `mapped` shards."""
        shard, a, b = self._place(first, stop)
        self._check(shard, self._chunks(a, b))
        return self._rows(shard)[a:b]

    def fill(self, pieces: Sequence[Piece]) -> None:
        """Copy the rows of every piece to where they go."""
        if self.mapped:
            for first, stop, out_NW in pieces:
                out_NW[:] = self.view(first, stop)
            return
        places = [self._place(first, stop) for first, stop, _ in pieces]
        runs = [(at, shard, run) for at, (shard, a, b) in enumerate(places) for run in _cut(self._chunks(a, b))]
        for (at, _, run), x_RW in zip(runs, self._decoded([(shard, run) for _, shard, run in runs]), strict=True):
            _, a, b = places[at]
            base = run.start * self.layout.rows_per_chunk
            lo, hi = max(a, base), min(b, base + len(x_RW))
            pieces[at][2][lo - a : hi - a] = x_RW[lo - base : hi - base]

    def gather(self, rows_N: np.ndarray, out_NW: np.ndarray) -> None:
        """The rows numbered `rows_N`, which rise, into `out_NW`; reads only the chunks they lie in."""
        edges = np.flatnonzero(np.diff(rows_N // self.layout.rows_per_shard)) + 1
        bounds = [0, *edges.tolist(), len(rows_N)]
        spans = [slice(a, b) for a, b in pairwise(bounds) if a < b]
        if self.mapped:
            for span in spans:
                self._take(rows_N[span], out_NW[span])
            return
        runs = [(span, shard, run) for span in spans for shard, run in self._touched(rows_N[span])]
        for (span, shard, run), x_RW in zip(runs, self._decoded([(s, run) for _, s, run in runs]), strict=True):
            at_N = rows_N[span] - shard * self.layout.rows_per_shard - run.start * self.layout.rows_per_chunk
            here_N = (at_N >= 0) & (at_N < len(x_RW))
            out_NW[span][here_N] = x_RW[at_N[here_N]]

    def _take(self, rows_N: np.ndarray, out_NW: np.ndarray) -> None:
        shard, *_ = self._place(int(rows_N[0]), int(rows_N[0]) + 1)
        local_N = rows_N - shard * self.layout.rows_per_shard
        self._check(shard, np.unique(local_N // self.layout.rows_per_chunk).tolist())
        # any mode but "raise" writes straight to `out`
        np.take(self._rows(shard), local_N, axis=0, out=out_NW, mode="clip")

    def _place(self, first: int, stop: int) -> tuple[int, int, int]:
        """(shard, first, stop) within that shard."""
        shard = first // self.layout.rows_per_shard
        base = shard * self.layout.rows_per_shard
        return shard, first - base, stop - base

    def _chunks(self, a: int, b: int) -> range:
        return range(a // self.layout.rows_per_chunk, -(-b // self.layout.rows_per_chunk))

    def _touched(self, rows_N: np.ndarray) -> Iterator[tuple[int, range]]:
        """(shard, chunks) that hold the rows, which are of one shard; neighbours joined."""
        shard = int(rows_N[0]) // self.layout.rows_per_shard
        chunks = np.unique((rows_N - shard * self.layout.rows_per_shard) // self.layout.rows_per_chunk)
        for piece in np.split(chunks, np.flatnonzero(np.diff(chunks) > 1) + 1):
            for run in _cut(range(int(piece[0]), int(piece[-1]) + 1)):
                yield shard, run

    def _decoded(self, runs: Sequence[tuple[int, range]]) -> Iterator[np.ndarray]:
        """Checked stored rows of every run of chunks, [n, W], some fetched while those before them are unpacked."""
        weights = np.cumsum([len(run) * self.layout.chunk_bytes for _, run in runs]) // _FETCHED
        groups = [[runs[at] for at in group] for _, group in groupby(range(len(runs)), lambda at: weights[at])]
        with ThreadPoolExecutor(1, thread_name_prefix="garner-fetch") as pool:
            coming = [pool.submit(self._bytes, group) for group in groups[:1]]
            for group, following in zip_longest(groups, groups[1:]):
                data = coming.pop().result()
                coming += [pool.submit(self._bytes, following)] if following else []
                for (shard, run), one in zip(group, data, strict=True):
                    yield self._unpacked(shard, run, one)

    def _bytes(self, runs: Sequence[tuple[int, range]]) -> Sequence[memoryview | bytes]:
        """What is stored of every run."""
        spans = [(shard, *self._extent(shard, run)) for shard, run in runs]
        if self.at_hand:
            return [self._object(shard)[a:b].data for shard, a, b in spans]
        try:
            return self.folder.ranges([(key(shard), a, b) for shard, a, b in spans])
        except FileNotFoundError as error:
            shards = ", ".join(key(shard) for shard in sorted({shard for shard, *_ in spans}))
            raise RunError(
                f"{self.folder}: one of {shards} is lost; `garner verify` names it, `garner repair` makes it again"
            ) from error

    def _extent(self, shard: int, run: range) -> tuple[int, int]:
        """Byte range of a run of chunks in its object."""
        sizes = lengths(self.layout, self._marks[shard])
        return sum(sizes[: run.start]), sum(sizes[: run.stop])

    def _unpacked(self, shard: int, run: range, data: memoryview | bytes) -> np.ndarray:
        sizes = lengths(self.layout, self._marks[shard])[run.start : run.stop]
        chunks, view = [], memoryview(data)
        for chunk, size in zip(run, sizes, strict=True):
            self._compare(shard, chunk, view[:size])
            chunks.append(view[:size])
            view = view[size:]
        if self.layout.compress == "none":
            return decompressed(self.layout, memoryview(data))
        return np.concatenate([decompressed(self.layout, chunk) for chunk in chunks])

    def _rows(self, shard: int) -> np.ndarray:
        """The rows of a mapped shard, padding included, [R, W]."""
        payload = self.layout.chunks_in(shard) * self.layout.chunk_bytes
        return decompressed(self.layout, self._object(shard)[:payload].data)

    def _object(self, shard: int) -> np.ndarray:
        """The map of a shard's whole object, uint8; its length and index are checked before it is trusted."""
        with self._lock:
            found = self._objects.get(shard)
        if found is None:  # outside the lock: a mirror may have to fetch it
            found = self._opened(shard)
        with self._lock:
            self._objects[shard] = found
            self._objects.move_to_end(shard)
            while len(self._objects) > _MAPS:
                self._objects.popitem(last=False)
        return found

    def _opened(self, shard: int) -> np.ndarray:
        """The map of the shard; a mirrored copy is checked whole, and fetched again if it was spoilt meanwhile."""
        if self.folder.local is not None:
            return self._map(shard, self.folder.local / key(shard))
        assert self._mirror is not None
        path = self.folder.kept(key(shard), self._mirror)
        try:
            return self._whole(shard, path)
        except RunError:
            path.unlink(missing_ok=True)
            return self._whole(shard, self.folder.kept(key(shard), self._mirror))

    def _whole(self, shard: int, path: Path) -> np.ndarray:
        data, at = self._map(shard, path), 0
        for chunk, size in enumerate(lengths(self.layout, self._marks[shard])):
            self._compare(shard, chunk, data[at : at + size])
            at += size
        return data

    def _map(self, shard: int, path: Path) -> np.ndarray:
        mark = self._marks[shard]
        try:
            data = np.memmap(path, dtype=np.uint8, mode="c")
        except (FileNotFoundError, ValueError) as error:
            raise RunError(
                f"{path} cannot be mapped ({error}): it is lost or empty; `garner repair` makes it again"
            ) from error
        footer = index(self.layout, lengths(self.layout, mark))
        if len(data) != mark.size or data[-len(footer) :].tobytes() != footer:
            raise RunError(
                f"{path} is damaged: it has {len(data)} bytes, or another index than its seal says; "
                "`garner repair` makes it again"
            )
        return data

    def _check(self, shard: int, chunks: Sequence[int]) -> None:
        """Compare the checksums of mapped chunks that are touched for the first time."""
        checked, size = self._checked[shard], self.layout.chunk_bytes
        for chunk in chunks:
            if not checked[chunk]:
                self._compare(shard, chunk, self._object(shard)[chunk * size : (chunk + 1) * size])
                checked[chunk] = True

    def _compare(self, shard: int, chunk: int, data: np.ndarray | memoryview) -> None:
        if checksum(data) != self._marks[shard].chunks[chunk]:
            first = shard * self.layout.rows_per_shard + chunk * self.layout.rows_per_chunk
            raise RunError(
                f"{self.folder / key(shard)} is damaged: rows {first} to {first + self.layout.rows_per_chunk} do not "
                "match their checksum; `garner repair` makes it again"
            )


def _cut(run: range) -> Iterator[range]:
    for start in range(run.start, run.stop, _RUN):
        yield range(start, min(start + _RUN, run.stop))
