"""Do two spaces agree about which points are alike? Pearson r of their pairwise dot products over i < j.

Written with Gram matrices the sums over all pairs need only the D x E cross products: for points x_i and y_i,
sum_j (x_i.x_j)(y_i.y_j) = x_i^T (sum_j x_j y_j^T) y_i. So r is exact in O(N D E) time and O(D E) memory instead of
N^2, and the diagonal, which would fake agreement (two independent Gaussian sets of 100 points: r = .68), is taken out
term by term. Unit rows make the dot products cosines.

Shapes: N points, D and E widths, P permutations, B a block of points.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from jobs.core.linalg import blocks


class Similarity(NamedTuple):
    """Agreement of two sets of pairwise similarities."""

    r: float
    low: float
    """2.5% quantile of r over points drawn again with replacement."""
    high: float
    """97.5% quantile."""
    null_P: np.ndarray
    """r with the points of the second space permuted."""
    point_r_N: Tensor
    """For each point alone, r between its similarities to all others in the two spaces."""
    means: tuple[float, float]
    """Mean similarity of two different points, in each space."""


def similarity(x_ND: Tensor, y_NE: Tensor, permutations: int, bootstraps: int, seed: int) -> Similarity:
    """Agreement over the strict upper triangle, its interval over points, and its permuted null."""
    n = len(x_ND)
    sums_N5 = row_sums(x_ND, y_NE)
    total_5 = sums_N5.sum(0)
    rng = np.random.default_rng(seed)
    drawn = [pearson(_resampled(sums_N5, rng), n * (n - 1)) for _ in range(bootstraps)]
    low, high = np.quantile([float(r) for r in drawn], (0.025, 0.975))
    null = []
    for _ in range(permutations):
        permuted_N = torch.from_numpy(rng.permutation(n)).to(y_NE.device)
        null.append(float(pearson(_with_cross(total_5, cross_sum(x_ND, y_NE, permuted_N)), n * (n - 1))))
    mean_x, mean_y = (total_5[:2] / (n * (n - 1))).tolist()
    r = float(pearson(total_5, n * (n - 1)))
    return Similarity(r, float(low), float(high), np.array(null), pearson(sums_N5, n - 1), (mean_x, mean_y))


def row_sums(x_ND: Tensor, y_NE: Tensor) -> Tensor:
    """Per point, summed over all other points: a, b, a^2, b^2, ab, with a = x_i.x_j and b = y_i.y_j; float64 [N, 5]."""
    gram_DD, gram_EE, cross_DE = _products(x_ND, x_ND), _products(y_NE, y_NE), _products(x_ND, y_NE)
    sum_D, sum_E = x_ND.sum(0, dtype=torch.float64), y_NE.sum(0, dtype=torch.float64)
    sums_N5 = torch.empty(len(x_ND), 5, dtype=torch.float64, device=x_ND.device)
    for part in blocks(len(x_ND), 32 * (x_ND.shape[1] + y_NE.shape[1])):
        x_BD, y_BE = x_ND[part].double(), y_NE[part].double()
        xx_B, yy_B = x_BD.square().sum(1), y_BE.square().sum(1)
        sums_N5[part, 0] = x_BD @ sum_D - xx_B
        sums_N5[part, 1] = y_BE @ sum_E - yy_B
        sums_N5[part, 2] = torch.einsum("bd,bd->b", x_BD @ gram_DD, x_BD) - xx_B.square()
        sums_N5[part, 3] = torch.einsum("be,be->b", y_BE @ gram_EE, y_BE) - yy_B.square()
        sums_N5[part, 4] = torch.einsum("be,be->b", x_BD @ cross_DE, y_BE) - xx_B * yy_B
    return sums_N5


def cross_sum(x_ND: Tensor, y_NE: Tensor, order_N: Tensor) -> Tensor:
    """Sum over i != j of (x_i.x_j)(y_o(i).y_o(j)) = |X^T Y_o|_F^2 less the diagonal."""
    y_NE = y_NE[order_N]
    diagonal = x_ND.double().square().sum(1) @ y_NE.double().square().sum(1)
    return _products(x_ND, y_NE).square().sum() - diagonal


def pearson(sums_5: Tensor, n_pairs: int) -> Tensor:
    """Pearson r from sums of a, b, a^2, b^2 and ab over n pairs, along the last axis."""
    a, b, aa, bb, ab = (sums_5 / n_pairs).unbind(-1)
    return (ab - a * b) / ((aa - a.square()) * (bb - b.square())).sqrt()


def _products(x_ND: Tensor, y_NE: Tensor) -> Tensor:
    products_DE = torch.zeros(x_ND.shape[1], y_NE.shape[1], dtype=torch.float64, device=x_ND.device)
    for part in blocks(len(x_ND), 16 * (x_ND.shape[1] + y_NE.shape[1])):
        products_DE.addmm_(x_ND[part].double().T, y_NE[part].double())
    return products_DE


def _with_cross(total_5: Tensor, cross: Tensor) -> Tensor:
    return torch.cat([total_5[:4], cross[None]])


def _resampled(sums_N5: Tensor, rng: np.random.Generator) -> Tensor:
    """Sums over the pairs of points drawn with replacement, to first order in the number of times each was drawn.

    With counts c, sum_ij c_i c_j s_ij is sum_i (2 c_i - 1) s_i. up to a term of order 1/N; it costs O(N) a draw, and
    a point drawn twice is not paired with itself.
    """
    n = len(sums_N5)
    counts_N = np.bincount(rng.integers(n, size=n), minlength=n)
    return torch.from_numpy(2.0 * counts_N - 1).to(sums_N5.device) @ sums_N5
