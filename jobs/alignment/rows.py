"""Matched rows of two caches, read block by block.

Shapes: M matched rows, N rows of a block, A all source sites side by side, B all target sites.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from jobs.alignment.match import Matched
from jobs.alignment.moments import spans
from jobs.core.linalg import blocks
from jobs.core.splits import Split
from jobs.core.tensors import as_tensor
from storage.reader import Activations


@dataclass(frozen=True)
class Rows:
    """Which rows belong together, where they are, and which part of the split each is in."""

    source: tuple[Activations, ...]
    target: tuple[Activations, ...]
    matched: Matched
    split: Split
    device: str

    def only(self, i: int, j: int) -> "Rows":
        """The same rows of source site i and target site j alone."""
        return replace(self, source=(self.source[i],), target=(self.target[j],))

    def blocks(self, n: int) -> Iterator[slice]:
        """Slices of `range(n)`; that many rows of all sites fit the working memory. Sums do not depend on them."""
        return blocks(n, 8 * sum(acts.d for acts in self.source + self.target))

    def source_rows(self, at: np.ndarray) -> Tensor:
        """Matched rows `at`, all source sites side by side."""
        return _beside(self.source, self.matched.source_M[at], self.device)

    def target_rows(self, at: np.ndarray) -> Tensor:
        """Matched rows `at`, all target sites side by side."""
        return _beside(self.target, self.matched.target_M[at], self.device)

    def means(self) -> tuple[list[Tensor], list[Tensor]]:
        """The recorded mean of every source and every target site."""
        source, target = ([_double(acts.moments.mean, self.device) for acts in s] for s in (self.source, self.target))
        return source, target


def draw(mask_M: np.ndarray, n: int, seed: int) -> np.ndarray:
    """At most n of the masked rows at random, in order."""
    rows = np.flatnonzero(mask_M)
    return np.sort(np.random.default_rng(seed).permutation(rows)[:n])


def _beside(sites: tuple[Activations, ...], rows_N: np.ndarray, device: str) -> Tensor:
    side_NA = torch.empty(len(rows_N), sum(acts.d for acts in sites), dtype=torch.float64, device=device)
    for acts, columns in zip(sites, spans([acts.d for acts in sites]), strict=True):
        side_NA[:, columns] = as_tensor(acts[rows_N], device)
    return side_NA


def _double(mean_D: np.ndarray, device: str) -> Tensor:
    return torch.from_numpy(np.asarray(mean_D, dtype=np.float64)).to(device)
