"""Sums over matched rows from which every map and similarity here is computed, without keeping the rows.

Shapes: N rows of a block, S and T widths of a source and a target site, A and B all source and all target sites side
by side, Q = number of sites on both sides.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pair:
    """Second moments of one source and one target site: float64 sums over n rows about the two means."""

    n: int
    mean_S: Tensor
    mean_T: Tensor
    xx_SS: Tensor
    yy_TT: Tensor
    xy_ST: Tensor

    def about(self, mean_S: Tensor, mean_T: Tensor) -> "Pair":
        """The same rows with their sums taken about other means, such as those of the training rows."""
        x, y = self.mean_S - mean_S, self.mean_T - mean_T
        return Pair(
            self.n,
            mean_S,
            mean_T,
            self.xx_SS + self.n * torch.outer(x, x),
            self.yy_TT + self.n * torch.outer(y, y),
            self.xy_ST + self.n * torch.outer(x, y),
        )


class Sums:
    """Running float64 sums for every pair of a source and a target site at once; memory is (A + B)^2 at most.

    Rows are shifted by the means that the caches recorded, so that subtracting the true mean later cancels nothing.
    Beside the products it keeps what the unbiased HSIC needs: each row's squared norm per site, and its products.
    """

    def __init__(self, source_means: Sequence[Tensor], target_means: Sequence[Tensor]) -> None:
        self.n_source = len(source_means)
        self._shift_A, self._shift_B = torch.cat(tuple(source_means)), torch.cat(tuple(target_means))
        self._a, self._b = (spans([len(mean) for mean in means]) for means in (source_means, target_means))
        zeros = self._shift_A.new_zeros
        width_a, width_b, n_sites = len(self._shift_A), len(self._shift_B), len(self._a) + len(self._b)
        self.n = 0
        self._x_A, self._y_B, self._norm_Q = zeros(width_a), zeros(width_b), zeros(n_sites)
        self._xx = [zeros(s.stop - s.start, s.stop - s.start) for s in self._a]
        self._yy = [zeros(s.stop - s.start, s.stop - s.start) for s in self._b]
        self._xy_AB = zeros(width_a, width_b)
        self._x_norm_AQ, self._y_norm_BQ = zeros(width_a, n_sites), zeros(width_b, n_sites)
        self._norm_norm_QQ = zeros(n_sites, n_sites)

    def add(self, x_NA: Tensor, y_NB: Tensor) -> None:
        """Adds matched rows; all source sites side by side, and all target sites."""
        x_NA, y_NB = x_NA - self._shift_A, y_NB - self._shift_B
        norms = [x_NA[:, s].square().sum(1) for s in self._a] + [y_NB[:, s].square().sum(1) for s in self._b]
        norm_NQ = torch.stack(norms, dim=1)
        self.n += len(x_NA)
        self._x_A += x_NA.sum(0)
        self._y_B += y_NB.sum(0)
        self._norm_Q += norm_NQ.sum(0)
        for sums, z_ND, places in ((self._xx, x_NA, self._a), (self._yy, y_NB, self._b)):
            for gram, span in zip(sums, places, strict=True):
                gram.addmm_(z_ND[:, span].T, z_ND[:, span])
        self._xy_AB.addmm_(x_NA.T, y_NB)
        self._x_norm_AQ.addmm_(x_NA.T, norm_NQ)
        self._y_norm_BQ.addmm_(y_NB.T, norm_NQ)
        self._norm_norm_QQ.addmm_(norm_NQ.T, norm_NQ)

    def plus(self, *others: "Sums") -> "Sums":
        """The sums over these rows and those of `others`, which must be about the same shifts."""
        total = copy.deepcopy(self)
        for other in others:
            total.n += other.n
            for mine, theirs in zip(total._tensors(), other._tensors(), strict=True):
                mine += theirs
        return total

    def pair(self, i: int, j: int) -> Pair:
        """Centred moments of source site i and target site j."""
        a, b = self._a[i], self._b[j]
        x, y, n = self._x_A[a], self._y_B[b], self.n
        return Pair(
            n,
            self._shift_A[a] + x / n,
            self._shift_B[b] + y / n,
            self._xx[i] - torch.outer(x, x) / n,
            self._yy[j] - torch.outer(y, y) / n,
            self._xy_AB[a, b] - torch.outer(x, y) / n,
        )

    def cka(self, i: int, j: int) -> float:
        """Debiased linear CKA of source site i and target site j: 0 on average for unrelated rows, at any n and width.

        HSIC_1(K, L) / sqrt(HSIC_1(K, K) HSIC_1(L, L)) with the unbiased estimator of Song et al. (2012, eq. 5), as
        in Nguyen et al. (2021, section 2), its kernels K = X X', L = Y Y' never formed.
        """
        across = self._hsic(self._xy_AB[self._a[i], self._b[j]], i, self.n_source + j)
        within = self._hsic(self._xx[i], i, i) * self._hsic(self._yy[j], self.n_source + j, self.n_source + j)
        return across / within**0.5 if within > 0 else float("nan")

    def _hsic(self, gram_ST: Tensor, p: int, q: int) -> float:
        n, norms = self.n, self._norm_norm_QQ[p, q]
        (x, x_norm), (y, y_norm) = self._first(p, q), self._first(q, p)
        trace = gram_ST.square().sum() - norms
        ones = (x @ x - self._norm_Q[p]) * (y @ y - self._norm_Q[q]) / ((n - 1) * (n - 2))
        rows = x @ gram_ST @ y - x @ x_norm - y @ y_norm + norms
        return float((trace + ones - 2 / (n - 2) * rows) / (n * (n - 3)))

    def _tensors(self) -> list[Tensor]:
        single = [self._x_A, self._y_B, self._norm_Q, self._xy_AB, self._x_norm_AQ, self._y_norm_BQ, self._norm_norm_QQ]
        return single + self._xx + self._yy

    def _first(self, p: int, q: int) -> tuple[Tensor, Tensor]:
        """Sum of site p's rows, and the same with each row weighted by its squared norm at site q."""
        if p < self.n_source:
            return self._x_A[self._a[p]], self._x_norm_AQ[self._a[p], q]
        span = self._b[p - self.n_source]
        return self._y_B[span], self._y_norm_BQ[span, q]


def spans(sizes: Sequence[int]) -> list[slice]:
    """Where pieces of these sizes lie, one after the other."""
    edges = [0, *accumulate(sizes)]
    return [slice(start, stop) for start, stop in pairwise(edges)]
