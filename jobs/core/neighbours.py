"""Exact nearest neighbours in blocks: chosen in float32, decided in float64.

Shapes: N points, Q of them queried, K neighbours each, C candidates, D width, E = D + 1, B a block of queries.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from jobs.core.linalg import blocks, mean_row, products

SPARE = 16
"""Candidates beyond K that are kept for the exact comparison before it is known whether more are needed."""
_EXACT = "donot_use_mm_for_euclid_dist"
"""Differences are squared and summed; a matrix product would cancel."""


class Neighbours(NamedTuple):
    """The nearest other points of each query, nearest first; equal distances are ordered by index."""

    indices_QK: Tensor
    distances_QK: Tensor
    """Euclidean, float64."""


def nearest(x_ND: Tensor, k: int, queries_Q: Tensor | None = None) -> Neighbours:
    """The k nearest other rows of each queried row (of every row when none are given).

    A point is never its own neighbour, and a copy of it at another index is one. For cosine neighbours hand in unit
    rows. The float32 distances of a block, |x|^2 + |y|^2 - 2xy, carry a rounding bound; every point that could be
    among the k nearest within it is measured again as sum (x - y)^2 in float64, so neither the size of a block nor
    the matrix product's rounding changes the answer.
    """
    queries_Q = torch.arange(len(x_ND), device=x_ND.device) if queries_Q is None else queries_Q
    found = [_closest(x_ND, queries_B, near.index_BC, k) for queries_B, near in _candidates(x_ND, queries_Q, k)]
    return Neighbours(torch.cat([part.indices_QK for part in found]), torch.cat([part.distances_QK for part in found]))


def neighbourhoods(x_ND: Tensor, k: int, queries_Q: Tensor) -> Tensor:
    """The points that `nearest` finds, by index instead of by distance: int64 [Q, K].

    Only those are measured again of which rounding leaves it open whether they belong.
    """
    found = [_members(x_ND, queries_B, near, k) for queries_B, near in _candidates(x_ND, queries_Q, k)]
    return torch.cat(found).sort(dim=1).values


class _Candidates(NamedTuple):
    """Points that are sure to include the k nearest, by rising lower bound."""

    index_BC: Tensor
    low_BC: Tensor
    """Lower bound of the squared distance, less what depends on the query alone."""
    high_BC: Tensor
    """Upper bound of the same."""


def _candidates(x_ND: Tensor, queries_Q: Tensor, k: int) -> Iterator[tuple[Tensor, _Candidates]]:
    """Blocks of queries, each with its candidates."""
    if not 1 <= k < len(x_ND):
        raise ValueError(f"{k} neighbours were asked of {len(x_ND)} points: k must be from 1 to {len(x_ND) - 1}")
    n, width = x_ND.shape
    r = (width + 8) * torch.finfo(torch.float32).eps
    lifted_NE = torch.empty(n, width + 1, device=x_ND.device)
    torch.sub(x_ND, mean_row(x_ND).to(x_ND.dtype), out=lifted_NE[:, :width])
    norms_N = torch.linalg.vector_norm(lifted_NE[:, :width], dim=1).square()
    lifted_NE[:, width] = (1 - r) * norms_N
    for part in blocks(len(queries_Q), 8 * n):
        yield queries_Q[part], _within_rounding(lifted_NE, r * norms_N, queries_Q[part], k)


def _within_rounding(lifted_NE: Tensor, slack_N: Tensor, queries_B: Tensor, k: int) -> _Candidates:
    """All that could be among the k nearest.

    Points are ranked by a lower bound of the squared distance, (1 - r)(|q|^2 + |x|^2) - 2qx with r the rounding bound,
    less what depends on the query alone: one product, of (-2q, 1) with (x, (1 - r)|x|^2). More are taken until the last
    one's lower bound passes the k-th upper bound.
    """
    n = len(lifted_NE)
    lifts_BE = -2 * lifted_NE[queries_B]
    lifts_BE[:, -1] = 1
    low_BN = products(lifts_BE, lifted_NE)
    low_BN[torch.arange(len(queries_B)), queries_B] = torch.inf
    size = min(n - 1, k + SPARE)
    while True:
        low_BC, index_BC = low_BN.topk(size, largest=False)
        high_BC = low_BC + 2 * (slack_N[queries_B, None] + slack_N[index_BC])
        if size == n - 1 or bool((low_BC[:, -1] > high_BC.kthvalue(k, dim=1).values).all()):
            return _Candidates(index_BC, low_BC, high_BC)
        size = min(n - 1, 2 * size)


def _members(x_ND: Tensor, queries_B: Tensor, near: _Candidates, k: int) -> Tensor:
    """The k nearest, unordered. A candidate whose upper bound is below the (k + 1)-th lower bound is one for sure."""
    index_BC, low_BC, high_BC = near
    sure = max(0, k - SPARE)
    if index_BC.shape[1] == k:
        return index_BC
    if bool((high_BC[:, :sure] >= low_BC[:, k, None]).any()):
        sure = 0
    open_BK = _closest(x_ND, queries_B, index_BC[:, sure:], k - sure).indices_QK
    return torch.cat([index_BC[:, :sure], open_BK], dim=1)


def _closest(x_ND: Tensor, queries_B: Tensor, candidates_BC: Tensor, k: int) -> Neighbours:
    """The k nearest of the candidates, by exact distance and then by index."""
    by_index_BC = candidates_BC.sort(dim=1).values
    distance_BC = torch.empty(by_index_BC.shape, dtype=torch.float64, device=x_ND.device)
    for part in blocks(len(queries_B), 128 * by_index_BC.shape[1] * x_ND.shape[1]):  # few: they stay in the CPU's cache
        query_B1D, others_BCD = x_ND[queries_B[part], None].double(), x_ND[by_index_BC[part]].double()
        distance_BC[part] = torch.cdist(query_B1D, others_BCD, compute_mode=_EXACT).squeeze(1)
    ordered_BC, order_BC = distance_BC.sort(dim=1, stable=True)
    return Neighbours(by_index_BC.gather(1, order_BC)[:, :k], ordered_BC[:, :k])
