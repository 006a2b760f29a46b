"""What two spaces of the same points agree on, each number beside what permuted points give.

Shapes: N points, Q of them with a dimension, K and L neighbours, S sampled pairs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import rankdata, spearmanr
from torch import Tensor

from jobs.core.linalg import barycentric_weights, blocks, centred, unit_rows, without_widest
from jobs.geometry.coherence import Coherence, coherence
from jobs.geometry.similarity import Similarity, similarity
from jobs.geometry.space import Space

WIDEST = 3
"""Principal components that the control of anisotropy removes."""
SAMPLED_PAIRS = 100_000
"""Pairs of points that the scatter figure and the rank correlation look at."""


@dataclass(frozen=True)
class Local:
    """A score per point, and the same scores with the second space's points permuted."""

    score_N: Tensor
    null_N: Tensor


class Told(NamedTuple):
    """Agreement on what is alike, under one view of both spaces."""

    similarity: Similarity
    pairs_S: tuple[np.ndarray, np.ndarray]
    rank: tuple[float, float]


@dataclass(frozen=True)
class Agreement:
    """Two spaces compared, from the coarsest to the finest."""

    cosine: Similarity
    centred: Similarity
    without_widest: Similarity
    """Of the cosines without the widest principal components of either space."""
    dot: Similarity
    """Of dot products, in which points of large norm count most."""
    dot_centred: Similarity
    pairs_S: tuple[np.ndarray, np.ndarray]
    """Cosines of sampled pairs of points in each space."""
    rank: tuple[float, float]
    """Spearman's rank correlation over the sampled pairs, and with the points permuted."""
    rank_centred: tuple[float, float]
    """The same about the mean points."""
    further: Mapping[int, tuple[Local, Local]]
    """Agreement on weights and on neighbours at further numbers of neighbours."""
    coherence: tuple[Coherence, Coherence]
    """Of each space's neighbourhoods, told by the other."""
    weights: Local
    """Cosine of a point's LLE weights in the two spaces, as sparse rows over all points."""
    refitted: Local
    """The same with the first space's neighbours in both: how much, given who."""
    overlap: Local
    """Share of a point's neighbours that are its neighbours in both."""
    dimension_r: tuple[float, float]
    """Pearson r of the intrinsic dimension, and its mean over permutations."""
    dimension_rank: tuple[float, float]
    """Spearman's rank correlation of the same."""


def compare(a: Space, b: Space, reg: float, permutations: int, bootstraps: int, seed: int) -> Agreement:
    """All agreements of two spaces whose points are in the same order."""
    rng = np.random.default_rng(seed)
    order_N = torch.from_numpy(rng.permutation(len(a.x_ND))).to(a.x_ND.device)
    pairs = tuple(drawn.to(a.x_ND.device) for drawn in _draw_pairs(len(a.x_ND), rng))

    def told(
        view: Callable[[Tensor], Tensor],
    ) -> Told:  # one view of both tables at a time, for each is as large as they are
        x_ND, y_NE = view(a.x_ND), view(b.x_ND)
        return Told(similarity(x_ND, y_NE, permutations, bootstraps, seed), *_ranks([x_ND, y_NE], pairs, order_N))

    cosine, about_mean = told(unit_rows), told(lambda x_ND: unit_rows(centred(x_ND)))
    dimensions = [space.dimension_Q.cpu().numpy().astype(np.float64) for space in (a, b)]
    ranks = [rankdata(dimension_Q) for dimension_Q in dimensions]
    weights, overlap_ = _compare_neighbours(_own(a), _own(b), order_N)
    return Agreement(
        cosine=cosine.similarity,
        centred=about_mean.similarity,
        without_widest=told(_less_widest).similarity,
        dot=told(lambda x_ND: x_ND).similarity,
        dot_centred=told(centred).similarity,
        pairs_S=cosine.pairs_S,
        rank=cosine.rank,
        rank_centred=about_mean.rank,
        further={k: _compare_neighbours(a.further[k], b.further[k], order_N) for k in a.further},
        coherence=(coherence(a, b, permutations, seed), coherence(b, a, permutations, seed)),
        weights=weights,
        refitted=Local(refitted_cosines(b.x_ND, a, reg), refitted_cosines(b.x_ND[order_N], a, reg)),
        overlap=overlap_,
        dimension_r=_correlation_and_null(dimensions[0], dimensions[1], permutations, rng),
        dimension_rank=_correlation_and_null(ranks[0], ranks[1], permutations, rng),
    )


def row_cosines(first_NK: Tensor, weights_NK: Tensor, second_NL: Tensor, weights_NL: Tensor) -> Tensor:
    """Cosine, per point, of two sparse rows over the points: neighbours with their weights in each space."""
    same_NKL = first_NK[:, :, None] == second_NL[:, None, :]
    dot_N = torch.einsum("nk,nkl,nl->n", weights_NK, same_NKL.to(weights_NK.dtype), weights_NL)
    return dot_N / (weights_NK.norm(dim=1) * weights_NL.norm(dim=1))


def overlap(first_NK: Tensor, second_NK: Tensor) -> Tensor:
    """Share of each point's neighbours in the first space that are its neighbours in the second."""
    return (first_NK[:, :, None] == second_NK[:, None, :]).sum((1, 2)) / first_NK.shape[1]


def permuted(neighbours_NK: Tensor, order_N: Tensor) -> Tensor:
    """Neighbours in the space whose i-th point is the o(i)-th of this one."""
    renamed_N = torch.empty_like(order_N)
    renamed_N[order_N] = torch.arange(len(order_N), device=order_N.device)
    return renamed_N[neighbours_NK[order_N]]


def refitted_cosines(x_ND: Tensor, first: Space, reg: float) -> Tensor:
    """Cosine of the first space's LLE weights with those that rebuild `x` from the same neighbours."""
    all_N = torch.arange(len(x_ND), device=x_ND.device)
    refitted_NK, _ = barycentric_weights(x_ND, all_N, first.near.indices_QK, reg)
    return torch.cosine_similarity(first.weights_NK, refitted_NK, dim=1)


def _own(space: Space) -> tuple[Tensor, Tensor]:
    return space.near.indices_QK, space.weights_NK


def _compare_neighbours(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor], order_N: Tensor) -> tuple[Local, Local]:
    """Of neighbours with their weights in each space: agreement on weights, and on neighbours."""
    (a_NK, a_weights_NK), (b_NK, b_weights_NK) = a, b
    null_NK = permuted(b_NK, order_N)
    weights = Local(
        row_cosines(a_NK, a_weights_NK, b_NK, b_weights_NK),
        row_cosines(a_NK, a_weights_NK, null_NK, b_weights_NK[order_N]),
    )
    return weights, Local(overlap(a_NK, b_NK), overlap(a_NK, null_NK))


def _less_widest(x_ND: Tensor) -> Tensor:
    return unit_rows(without_widest(centred(x_ND), WIDEST))


def _ranks(
    unit: list[Tensor], pairs: tuple[Tensor, ...], order_N: Tensor
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[float, float]]:
    """Cosines of the pairs in both spaces; their rank correlation, and with the second space's points permuted."""
    i_S, j_S = pairs
    pairs_S = pair_cosines(unit[0], i_S, j_S), pair_cosines(unit[1], i_S, j_S)
    null_S = pair_cosines(unit[1], order_N[i_S], order_N[j_S])
    return pairs_S, (float(spearmanr(*pairs_S).statistic), float(spearmanr(pairs_S[0], null_S).statistic))


def _draw_pairs(n: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Randomly drawn pairs of different points."""
    first_S = rng.integers(n, size=SAMPLED_PAIRS)
    second_S = (first_S + rng.integers(1, n, size=SAMPLED_PAIRS)) % n
    return torch.from_numpy(first_S), torch.from_numpy(second_S)


def pair_cosines(unit_ND: Tensor, i_S: Tensor, j_S: Tensor) -> np.ndarray:
    """The cosine of each pair of unit rows."""
    parts = [(unit_ND[i_S[part]] * unit_ND[j_S[part]]).sum(1) for part in blocks(len(i_S), 12 * unit_ND.shape[1])]
    return np.asarray(torch.cat(parts).cpu())


def _correlation_and_null(
    x: np.ndarray, y: np.ndarray, permutations: int, rng: np.random.Generator
) -> tuple[float, float]:
    null = [_correlation(x, rng.permutation(y)) for _ in range(permutations)]
    return _correlation(x, y), float(np.mean(null))


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson r; nan where one of the two does not vary."""
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])
