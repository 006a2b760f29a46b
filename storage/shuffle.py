"""Two-level shuffle: blocks of rows in a seeded order, then the rows of a window of blocks in a seeded order.

Deterministic, bounded in memory, exact (every kept row once an epoch, over all ranks together), and resumable at any
batch. Nothing here depends on threads or on where the rows are kept.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, NamedTuple, Protocol, TypedDict, TypeVar, cast

import numpy as np

from storage.errors import InputError
from storage.value import Value

WINDOW_BYTES = 256 * 2**20
"""Largest window; two are held, the one that batches are drawn from and the one being read."""
WINDOW_ROWS = 2**17
"""Rows of a window where they fit: many documents, so that a batch holds few rows of any one of them."""

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
    def edges(self) -> np.ndarray: ...
    @property
    def row_bytes(self) -> int: ...
    def room(self, rows: int) -> np.ndarray: ...
    def fill(self, blocks: Sequence[tuple[int, int]], out_NW: np.ndarray) -> None: ...
    def decoded(self, x_NW: np.ndarray) -> np.ndarray: ...


class _Window(NamedTuple):
    """A window that was read: where its rows lie, in the order in which they come."""

    rows_N: np.ndarray
    """Their numbers, int64."""
    at_N: np.ndarray
    """Their places in the buffer, int64."""
    x_RW: np.ndarray
    """The buffer: stored rows of whole blocks."""


class Shuffled(Generic[Batch]):
    """Iterates batches x_BD, or (rows_B, x_BD) with `with_rows`; the last batch of an epoch may be shorter.

    It goes through its rows once: make another to go through them again. `keep` is a bool mask over rows. Of
    `world_size` ranks, each yields other rows, and together they yield all.
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
        self._edges = source.edges
        self._drawn = np.diff(self._edges) if keep is None else _counts(keep, self._edges)
        self._per_window = _blocks_per_window(source)

    def __iter__(self) -> Iterator[Batch]:
        for epoch in range(self.position.epoch, self._epochs):
            for rows_B, x_BD in self._epoch(epoch, self.position.batch):
                self.position = Position(epoch=epoch, batch=self.position.batch + 1)
                yield cast(Batch, (rows_B, x_BD) if self._with_rows else x_BD)
            self.position = Position(epoch=epoch + 1)

    def _epoch(self, epoch: int, skip: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Batches of one epoch after the first `skip`, drawn from the windows one after the other."""
        windows = self._windows(epoch)
        lengths = [int(self._drawn[blocks].sum()) for blocks in windows]
        first, offset = _locate(lengths, skip * self._batch)
        left = sum(lengths[first:]) - offset
        rows_B, x_BW, held = self._empty(left)
        for window in self._ahead(epoch, windows, first):
            while offset < len(window.rows_N):
                taken = slice(offset, offset + len(rows_B) - held)
                n = len(window.rows_N[taken])
                rows_B[held : held + n] = window.rows_N[taken]
                # any mode but "raise" writes straight to `out`
                np.take(window.x_RW, window.at_N[taken], axis=0, out=x_BW[held : held + n], mode="clip")
                held, offset, left = held + n, offset + n, left - n
                if held == len(rows_B):
                    yield rows_B, self._source.decoded(x_BW)
                    rows_B, x_BW, held = self._empty(left)
            offset = 0

    def _empty(self, left: int) -> tuple[np.ndarray, np.ndarray, int]:
        """A batch to be filled, of as many rows as are left if these are fewer."""
        rows = min(self._batch, left)
        return np.empty(rows, np.int64), self._source.room(rows), 0

    def _windows(self, epoch: int) -> list[np.ndarray]:
        """The blocks of every window of this rank, int64; blocks without a kept row are passed over."""
        order = np.random.default_rng((self._seed, epoch)).permutation(len(self._drawn))
        mine = order[self._rank :: self._world_size]
        groups = [mine[at : at + self._per_window] for at in range(0, len(mine), self._per_window)]
        return [group[self._drawn[group] > 0] for group in groups]

    def _ahead(self, epoch: int, windows: Sequence[np.ndarray], first: int) -> Iterator[_Window]:
        """The windows in order, each read while the one before it is in use; two buffers take turns."""
        rows = max((int(np.diff(self._edges)[blocks].sum()) for blocks in windows[first:]), default=0)
        buffers = self._source.room(rows), self._source.room(rows if len(windows) - first > 1 else 0)
        with ThreadPoolExecutor(1, thread_name_prefix="garner-read") as pool:
            coming: Future[_Window] | None = None
            for number in range(first, len(windows)):
                following = pool.submit(self._load, epoch, number, windows[number], buffers[(number - first) % 2])
                if coming is not None:
                    yield coming.result()
                coming = following
            if coming is not None:
                yield coming.result()

    def _load(self, epoch: int, number: int, blocks: np.ndarray, buffer_RW: np.ndarray) -> _Window:
        """Read a window's blocks and draw the order of its kept rows."""
        edges = self._edges
        self._source.fill([(int(edges[block]), int(edges[block + 1])) for block in blocks], buffer_RW)
        rows_R = self._rows(blocks)
        at_N = np.arange(len(rows_R)) if self._keep is None else np.flatnonzero(self._keep[rows_R])
        at_N = np.random.default_rng((self._seed, epoch, number, self._rank)).permutation(at_N)
        return _Window(rows_R[at_N], at_N, buffer_RW)

    def _rows(self, blocks: np.ndarray) -> np.ndarray:
        """All rows of the blocks, one block after the other, int64."""
        pieces = [np.arange(self._edges[block], self._edges[block + 1]) for block in blocks]
        return np.concatenate([np.zeros(0, np.int64), *pieces])


def _counts(keep_N: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Kept rows of every block, int64."""
    return np.add.reduceat(keep_N, edges[:-1], dtype=np.int64) if len(keep_N) else np.zeros(0, np.int64)


def _blocks_per_window(source: Source) -> int:
    rows = min(WINDOW_ROWS, max(WINDOW_BYTES // max(source.row_bytes, 1), 1))
    return max(rows // max(int(np.diff(source.edges).max(initial=1)), 1), 1)


def _locate(lengths: Sequence[int], row: int) -> tuple[int, int]:
    """The window that holds the stream's row, and the row's offset there."""
    for window, length in enumerate(lengths):
        if row < length:
            return window, row
        row -= length
    return len(lengths), 0
