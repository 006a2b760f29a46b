"""Two-level shuffle: blocks of rows in a seeded order, then the rows of a window of blocks in a seeded order.

Deterministic, bounded in memory, exact (every kept row once an epoch, over all ranks together), and resumable at any
batch. Nothing here depends on threads or on where the rows are kept.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar

import numpy as np

from storage.errors import InputError
from storage.value import Value

WINDOW_BYTES = 256 * 2**20
"""Largest window; two are held, the one being emitted and the one being read."""
WINDOW_ROWS = 2**17
"""Rows of a window where they fit: many documents, so that a batch holds few rows of any one of them."""

T = TypeVar("T")


class Position(Value):
    """Where a reader stands: it has yielded `batch` batches of epoch `epoch`."""

    epoch: int = 0
    batch: int = 0


class Source(Protocol):
    """Rows that can be read in blocks."""

    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def dtype(self) -> np.dtype: ...
    @property
    def chunk(self) -> int: ...
    def read_blocks(self, blocks: Sequence[tuple[int, int]]) -> np.ndarray: ...


class Shuffled:
    """Iterates batches x_BD, or (rows_B, x_BD) with `with_rows`; the last batch of an epoch may be shorter.

    `keep` is a bool mask over rows. Of `world_size` ranks, each yields other rows, and together they yield all.
    `position` after any batch, given to a new reader with the same arguments, makes it continue behind that batch.
    """

    def __init__(
        self,
        source: Source,
        *,
        batch: int,
        seed: int,
        epochs: int,
        keep: np.ndarray | None,
        rank: int,
        world_size: int,
        with_rows: bool,
        position: Position,
    ) -> None:
        n_rows = source.shape[0]
        if batch < 1 or not 0 <= rank < world_size:
            raise InputError(
                f"batch = {batch}, rank {rank} of {world_size}: want batch >= 1 and 0 <= rank < world_size"
            )
        if keep is not None and keep.shape != (n_rows,):
            raise InputError(
                f"keep has shape {keep.shape}; it must say for each of the {n_rows} rows whether it is kept"
            )
        self.position = position
        self._source, self._keep, self._with_rows = source, keep, with_rows
        self._batch, self._seed, self._epochs = batch, seed, epochs
        self._rank, self._world_size = rank, world_size
        self._blocks = _blocks(n_rows, source.chunk)
        self._per_window = _blocks_per_window(source)

    def __iter__(self) -> Iterator["np.ndarray | tuple[np.ndarray, np.ndarray]"]:
        for epoch in range(self.position.epoch, self._epochs):
            for rows_B, x_BD in self._epoch(epoch, self.position.batch):
                self.position = Position(epoch=epoch, batch=self.position.batch + 1)
                yield (rows_B, x_BD) if self._with_rows else x_BD
            self.position = Position(epoch=epoch + 1)

    def _epoch(self, epoch: int, skip: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Batches of one epoch after the first `skip`, cut from the stream of windows."""
        windows = self._windows(epoch)
        first, offset = _locate([len(rows) for rows, _ in windows], skip * self._batch)
        rows_N, x_ND = np.zeros(0, np.int64), np.empty((0, self._source.shape[1]), self._source.dtype)
        for rows_W, x_WD in _ahead(lambda w: self._load(epoch, w, windows[w]), range(first, len(windows))):
            rows_N = np.concatenate([rows_N, rows_W[offset:]])
            x_ND = np.concatenate([x_ND, x_WD[offset:]])
            offset = 0
            whole = len(rows_N) - len(rows_N) % self._batch
            for at in range(0, whole, self._batch):
                yield rows_N[at : at + self._batch], x_ND[at : at + self._batch]
            rows_N, x_ND = rows_N[whole:], x_ND[whole:]
        if len(rows_N):
            yield rows_N, x_ND

    def _windows(self, epoch: int) -> list[tuple[np.ndarray, list[tuple[int, int]]]]:
        """For every window of this rank: its kept rows in block order, and its blocks."""
        order = np.random.default_rng((self._seed, epoch)).permutation(len(self._blocks))
        mine = order[self._rank :: self._world_size]
        groups = [mine[at : at + self._per_window] for at in range(0, len(mine), self._per_window)]
        chosen = [[self._blocks[block] for block in group] for group in groups]
        return [(self._kept(blocks), blocks) for blocks in chosen]

    def _kept(self, blocks: Sequence[tuple[int, int]]) -> np.ndarray:
        rows = np.concatenate([np.arange(first, stop) for first, stop in blocks])
        return rows if self._keep is None else rows[self._keep[rows]]

    def _load(
        self, epoch: int, window: int, what: tuple[np.ndarray, list[tuple[int, int]]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """A window's rows in their shuffled order; blocks without a kept row are not read."""
        rows_W, blocks = what
        blocks = [(a, b) for a, b in blocks if self._keep is None or self._keep[a:b].any()]
        x_RD = self._source.read_blocks(blocks)
        order_W = np.random.default_rng((self._seed, epoch, window, self._rank)).permutation(len(rows_W))
        if self._keep is None:
            return rows_W[order_W], x_RD[order_W]
        at_W = np.flatnonzero(np.concatenate([self._keep[a:b] for a, b in blocks] or [np.zeros(0, bool)]))
        return rows_W[order_W], x_RD[at_W[order_W]]


def _blocks(n_rows: int, size: int) -> list[tuple[int, int]]:
    return [(at, min(at + size, n_rows)) for at in range(0, n_rows, size)]


def _blocks_per_window(source: Source) -> int:
    row_bytes = source.shape[1] * source.dtype.itemsize
    rows = min(WINDOW_ROWS, max(WINDOW_BYTES // max(row_bytes, 1), 1))
    return max(rows // source.chunk, 1)


def _locate(lengths: Sequence[int], row: int) -> tuple[int, int]:
    """The window that holds the stream's row, and the row's offset there."""
    for window, length in enumerate(lengths):
        if row < length:
            return window, row
        row -= length
    return len(lengths), 0


def _ahead(load: Callable[[int], T], windows: Sequence[int]) -> Iterator[T]:
    """`load` of every window, one read ahead of the one in use."""
    if not windows:
        return
    with ThreadPoolExecutor(1, thread_name_prefix="garner-read") as pool:
        coming: Future[T] = pool.submit(load, windows[0])
        for following in windows[1:]:
            ready = coming.result()
            coming = pool.submit(load, following)
            yield ready
        yield coming.result()
