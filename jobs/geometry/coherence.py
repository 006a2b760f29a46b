"""Do points of low dimension sit in clusters? A neighbourhood is coherent where its members are neighbours themselves.

For a point with neighbours N, the share of pairs (j, l) of N of which one is among the k nearest of the other. The k
nearest are those of the other space where there are two, so that the space that chose N does not also judge it; of the
same space otherwise (the clustering coefficient of its neighbour graph). Random sets of as many points are the null.

Q points with a dimension, K neighbours.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from jobs.core.linalg import blocks
from jobs.geometry.space import Space

TAIL = 0.1
"""Share of the points that are called lowest and highest."""


@dataclass(frozen=True)
class Coherence:
    """How coherent neighbourhoods are, by the dimension of their point."""

    lowest: float
    """Mean over the points of lowest dimension."""
    highest: float
    random: float
    """Mean over random sets of as many points."""
    rank: float
    """Spearman's rho of dimension and coherence."""
    rank_null: float
    """Mean of the same with dimensions permuted."""


def coherence(space: Space, judge: Space, permutations: int, seed: int) -> Coherence:
    """Of the neighbourhoods of `space`, at the points whose dimension was measured, told by `judge`."""
    rng = np.random.default_rng(seed)
    near_QK = space.near.indices_QK[space.queries_Q]
    scores_Q = pair_share(near_QK, judge.near.indices_QK).cpu().numpy()
    random_QK = torch.from_numpy(np.stack([_distinct(rng, len(space.x_ND), near_QK.shape[1]) for _ in scores_Q]))
    dimension_Q = space.dimension_Q.cpu().numpy()
    order_Q = np.argsort(dimension_Q, kind="stable")
    tail = max(1, int(TAIL * len(order_Q)))
    return Coherence(
        lowest=float(scores_Q[order_Q[:tail]].mean()),
        highest=float(scores_Q[order_Q[-tail:]].mean()),
        random=float(pair_share(random_QK.to(near_QK.device), judge.near.indices_QK).mean()),
        rank=_rank(dimension_Q, scores_Q),
        rank_null=float(np.mean([_rank(rng.permutation(dimension_Q), scores_Q) for _ in range(permutations)])),
    )


def pair_share(sets_QK: Tensor, near_NK: Tensor) -> Tensor:
    """Share of the pairs of each set's members of which one is a neighbour of the other, float64 [Q]."""
    size = sets_QK.shape[1]
    upper_KK = torch.ones(size, size, dtype=torch.bool, device=sets_QK.device).triu(1)
    shares_Q = torch.empty(len(sets_QK), dtype=torch.float64, device=sets_QK.device)
    for part in blocks(len(sets_QK), 2 * size * size * near_NK.shape[1]):
        members_BK = sets_QK[part]
        among_BKK = (near_NK[members_BK][:, :, None, :] == members_BK[:, None, :, None]).any(-1)
        shares_Q[part] = (among_BKK | among_BKK.mT)[:, upper_KK].double().mean(1)
    return shares_Q


def _distinct(rng: np.random.Generator, n: int, size: int) -> np.ndarray:
    return rng.choice(n, size, replace=False)


def _rank(x: np.ndarray, y: np.ndarray) -> float:
    """nan where one of the two does not vary."""
    return float("nan") if np.ptp(x) == 0 or np.ptp(y) == 0 else float(spearmanr(x, y).statistic)
