"""Which features are near one another: by the angle between their atoms, and by firing on the same rows.

N rows, F features, M features asked for, K neighbours of each.
"""

from dataclasses import dataclass

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from jobs.core.linalg import blocks, unit_rows
from jobs.sae.detectors import Firings


@dataclass(frozen=True)
class Near:
    """The nearest other features of each, nearest first; -1 where there are fewer."""

    features_MK: np.ndarray
    closeness_MK: np.ndarray


def by_angle(atoms_FD: Tensor, features_M: np.ndarray, k: int) -> Near:
    """By the cosine of atoms; a zero atom is near none."""
    unit_FD, zero_F = unit_rows(atoms_FD), (atoms_FD == 0).all(dim=1)
    near = []
    for part in blocks(len(features_M), 4 * len(unit_FD)):
        mine_B = torch.from_numpy(features_M[part]).to(unit_FD.device)
        cosine_BF = unit_FD[mine_B] @ unit_FD.T
        cosine_BF[zero_F[mine_B]] = -torch.inf
        cosine_BF[:, zero_F] = -torch.inf
        near.append(_nearest(cosine_BF, mine_B, k))
    return _stacked(near, k)


def by_firing(firings: Firings, features_M: np.ndarray, k: int) -> Near:
    """By the correlation of firing (phi), which is 0 for features that fire independently of one another."""
    at_A, features_A = firings.pairs
    n, width = max(len(firings.rows_N), 1), firings.width
    fired_NF = scipy.sparse.csr_array((np.ones(len(at_A), np.float32), (at_A, features_A)), shape=(n, width))
    by_feature_FN = fired_NF.T.tocsr()
    share_F = np.bincount(features_A, minlength=width) / n
    spread_F = np.sqrt(share_F * (1 - share_F))
    near = []
    for part in blocks(len(features_M), 24 * width):
        mine_B = features_M[part]
        together_BF = (by_feature_FN[mine_B] @ fired_NF).toarray() / n
        spread_BF = spread_F[mine_B, None] * spread_F
        phi_BF = np.full(spread_BF.shape, -np.inf)
        np.divide(together_BF - share_F[mine_B, None] * share_F, spread_BF, out=phi_BF, where=spread_BF > 0)
        near.append(_nearest(torch.from_numpy(phi_BF), torch.from_numpy(mine_B), k))
    return _stacked(near, k)


def greatest(values_BN: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Places and values of the k greatest of each line, greatest first, the lower place first among equals."""
    top = values_BN.topk(min(k, values_BN.shape[1]), dim=1)
    places_BK, by_place = top.indices.sort(dim=1)
    values_BK, order = top.values.gather(1, by_place).sort(dim=1, descending=True, stable=True)
    return places_BK.gather(1, order), values_BK


def _nearest(closeness_BF: Tensor, mine_B: Tensor, k: int) -> Near:
    closeness_BF[torch.arange(len(mine_B)), mine_B] = -torch.inf
    places_BK, values_BK = (part.cpu().numpy() for part in greatest(closeness_BF, k))
    known_BK = np.isfinite(values_BK)
    return Near(np.where(known_BK, places_BK, -1), np.where(known_BK, values_BK, np.nan))


def _stacked(near: list[Near], k: int) -> Near:
    empty = Near(np.empty((0, k), np.int64), np.empty((0, k)))
    parts = near or [empty]
    return Near(np.concatenate([one.features_MK for one in parts]), np.concatenate([one.closeness_MK for one in parts]))
