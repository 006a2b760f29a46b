"""Two-level shuffle: blocks of rows in a seeded order, then the rows of a window of blocks in a seeded order.

Deterministic, bounded in memory, exact (every kept row once an epoch, over all ranks together), and resumable at any
batch. Nothing here depends on threads or on where the rows are kept.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, Protocol, TypedDict, TypeVar, cast

import numpy as np

from storage.errors import InputError
from storage.value import Value

WINDOW_BYTES = 256 * 2**20
"""Largest window; two are held, the one being emitted and the one being read."""
WINDOW_ROWS = 2**17
"""Rows of a window where they fit: many documents, so that a batch holds few rows of any one of them."""

T = TypeVar("T")
Batch = TypeVar("Batch", covariant=True)


class Position(Value):
    """Where a reader stands: it has yielded `batch` batches of epoch `epoch`."""

    epoch: int = 0
    batch: int = 0


class Order(TypedDict, total=False):
    """How rows are drawn; what is left out has its default."""

    seed: int
    """Of every permutation; 0."""
    epochs: int
    """Times that every kept row comes; 1."""
    keep: np.ndarray | None
    """bool [n_rows]: which rows are drawn; all."""
    rank: int
    """Which share of the rows; 0."""
    world_size: int
    """Shares that together are all rows; 1."""
    position: Position
    """Where to continue; at the start."""


class Source(Protocol):
    """Rows that can be read in blocks."""

    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def dtype(self) -> np.dtype: ...
    @property
    def chunk(self) -> int: ...
    def read_blocks(self, blocks: Sequence[tuple[int, int]]) -> np.ndarray: ...


class Shuffled(Generic[Batch]):
    """Iterates batches x_BD, or (rows_B, x_BD) with `with_rows`; the last batch of an epoch may be shorter.

    `keep` is a bool mask over rows. Of `world_size` ranks, each yields other rows, and together they yield all.
    `position` after any batch, given to a new reader with the same arguments, makes it continue behind that batch.
    """

    def __init__(self, source: Source, batch: int, with_rows: bool, order: Order) -> None:
        n_rows, keep = source.shape[0], order.get("keep")
        self._rank, self._world_size = order.get("rank", 0), order.get("world_size", 1)
        if batch < 1 or not 0 <= self._rank < self._world_size:
            raise InputError(
                f"batch = {batch}, rank {self._rank} of {self._world_size}: want batch >= 1 and 0 <= rank < world_size"
            )
        if keep is not None and (keep.shape != (n_rows,) or keep.dtype != bool):
            raise InputError(f"keep is {keep.dtype} {keep.shape}; it must be bool [{n_rows}]: is each row kept?")
        self.position = order.get("position", Position())
        self._source, self._keep, self._with_rows = source, keep, with_rows
        self._batch, self._seed, self._epochs = batch, order.get("seed", 0), order.get("epochs", 1)
        self._blocks = _blocks(n_rows, source.chunk)
        self._per_window = _blocks_per_window(source)

    def __iter__(self) -> Iterator[Batch]:
        for epoch in range(self.position.epoch, self._epochs):
            for rows_B, x_BD in self._epoch(epoch, self.position.batch):
                self.position = Position(epoch=epoch, batch=self.position.batch + 1)
                yield cast(Batch, (rows_B, x_BD) if self._with_rows else x_BD)
            self.position = Position(epoch=epoch + 1)

    def _epoch(self, epoch: int, skip: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Batches of one epoch after the first `skip`, cut from the stream of windows; only a seam is copied."""
        windows = self._windows(epoch)
        first, offset = _locate([len(rows) for rows, _ in windows], skip * self._batch)
        rows_N, x_ND = np.zeros(0, np.int64), np.empty((0, self._source.shape[1]), self._source.dtype)
        for rows_W, x_WD in _ahead(lambda w: self._load(epoch, w, windows[w]), range(first, len(windows))):
            seam = offset + (self._batch - len(rows_N) if len(rows_N) else 0)
            rows_N = np.concatenate([rows_N, rows_W[offset:seam]])
            x_ND = np.concatenate([x_ND, x_WD[offset:seam]])
            offset = 0
            if 0 < len(rows_N) < self._batch:
                continue
            if len(rows_N):
                yield rows_N, x_ND
            whole = seam + (len(rows_W) - seam) // self._batch * self._batch
            for at in range(seam, whole, self._batch):
                yield rows_W[at : at + self._batch], x_WD[at : at + self._batch]
            rows_N, x_ND = rows_W[whole:], x_WD[whole:]
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
