"""Candidates: points near the data that atoms start from, or are made of.

N candidates, B rows of a batch, D dimensions.
"""

from collections.abc import Iterable, Iterator
from typing import Annotated

import numpy as np
import torch
from msgspec import Meta
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor

from storage.errors import InputError
from storage.value import Value

Count = Annotated[int, Meta(ge=1)]
_SPREAD_OUT = 1024
"""Candidates up to which k-means starts far apart (k-means++); beyond, that takes longer than all that follows."""


class KMeans(Value, tag_field="kind", tag="kmeans"):
    """Centres of mini-batch k-means: means of rows, so they lie in the rows' convex hull."""

    n: Count = 4096
    """How many."""
    rows: Count = 1 << 20
    """Training rows that are streamed, at most."""
    seed: int | None = None
    """Of the rows and the start, in place of the run's own, so that a run and its twins share them."""

    def draw(self, batches_BD: Iterable[Tensor], seed: int) -> Tensor:
        """The centres [N, D], float32, in the order in which k-means has them."""
        centres = MiniBatchKMeans(
            self.n,
            init="k-means++" if self.n <= _SPREAD_OUT else "random",
            n_init=1,
            random_state=seed,
        )
        for x_BD in pooled(batches_BD, max(3 * self.n, 4096), self.rows):
            if len(x_BD) < self.n:
                raise InputError(f"{self.n} k-means candidates were asked of {len(x_BD)} training rows: lower `n`")
            centres.partial_fit(x_BD)
        return torch.from_numpy(np.ascontiguousarray(centres.cluster_centers_, dtype=np.float32))


class Sampled(Value, tag_field="kind", tag="rows"):
    """Rows themselves, drawn at random."""

    n: Count = 4096
    """How many."""
    seed: int | None = None
    """Of the draw, in place of the run's own, so that a run and its twins share them."""

    def draw(self, batches_BD: Iterable[Tensor], seed: int) -> Tensor:
        """The rows [N, D], float32."""
        rows_ND = next(pooled(batches_BD, self.n, self.n), np.zeros((0, 0), np.float32))
        if len(rows_ND) < self.n:
            raise InputError(f"{self.n} rows were asked as candidates, there are {len(rows_ND)}: lower `n`")
        order_N = np.random.default_rng(seed).permutation(self.n)
        return torch.from_numpy(rows_ND[order_N])


Candidates = KMeans | Sampled


def pooled(batches_BD: Iterable[Tensor], size: int, most: int) -> Iterator[np.ndarray]:
    """The first `most` rows in batches of `size` or more; the last rows go with those before them."""
    held: list[np.ndarray] = []
    n = seen = 0
    for x_BD in batches_BD:
        part = x_BD[: most - seen].cpu().numpy()
        held.append(part)
        n, seen = n + len(part), seen + len(part)
        if seen >= most:
            break
        if n >= 2 * size:  # one batch's worth stays behind, lest the last one is short
            rows = np.concatenate(held)
            yield rows[:-size]
            held, n = [rows[-size:]], size
    if held:
        yield np.concatenate(held)
