"""Rows of several sites side by side, where row n of each is the same token: read and shuffled like one site.

N: rows, D: the sum of the widths.
"""

from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any, Unpack

import numpy as np

from storage.errors import InputError
from storage.reader import Activations
from storage.shuffle import Order, Shuffled


class Joined:
    """Several sites of the same tokens; slices, gathers and batches are float32 [N, D]."""

    def __init__(self, sources: Sequence[Activations]) -> None:
        lengths = {len(source) for source in sources}
        if len(lengths) != 1:
            raise InputError(
                f"sources side by side want the same tokens; {', '.join(str(source.site) for source in sources)} have "
                f"{', '.join(str(len(source)) for source in sources)} rows: harvest the same corpus for all of them"
            )
        self.sources = tuple(sources)

    @property
    def columns(self) -> tuple[slice, ...]:
        """Where each source lies in a row."""
        return tuple(slice(*edge) for edge in pairwise(accumulate((source.d for source in self.sources), initial=0)))

    @property
    def d(self) -> int:
        """Width of a row: the sum of the sources'."""
        return sum(source.d for source in self.sources)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, width)."""
        return len(self.sources[0]), self.d

    @cached_property
    def edges(self) -> np.ndarray:
        """Rows at which a chunk begins in the source with the fewest chunks, int64; others may be read from within."""
        return min((source.edges for source in self.sources), key=len).astype(np.int64)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row in memory."""
        return 4 * self.d

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """Rows [N, D]."""
        return np.concatenate([source[rows].astype(np.float32) for source in self.sources], axis=1)

    def shuffled(self, batch: int = 4096, *, with_rows: bool = False, **order: Unpack[Order]) -> Shuffled[Any]:
        """As `Activations.shuffled`."""
        return Shuffled(self, batch, with_rows, order)

    def room(self, rows: int) -> np.ndarray:
        """Space for so many rows."""
        return np.empty((rows, self.d), np.float32)

    def decoded(self, x_NW: np.ndarray) -> np.ndarray:
        """They are numbers already."""
        return x_NW

    def fill(self, blocks: Sequence[tuple[int, int]], out_NW: np.ndarray) -> None:
        """Rows of row ranges, one range after the other."""
        rows = sum(stop - first for first, stop in blocks)
        for source, columns in zip(self.sources, self.columns, strict=True):
            stored_NW = source.room(rows)
            source.fill(blocks, stored_NW)
            out_NW[:rows, columns] = source.decoded(stored_NW)
