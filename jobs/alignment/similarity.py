"""How alike two sites are without choosing a direction to map: canonical correlations, retrieval.

Shapes: N rows, S source width, T target width, K canonical directions.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from jobs.alignment.moments import Pair
from jobs.core.linalg import unit_rows

TIE = 1e-6
"""Cosines closer than this are ties: rows that hold the same vector, up to rounding."""


@dataclass(frozen=True)
class Cca:
    """Canonical directions of both sides, the most correlated first."""

    source_SK: Tensor
    target_TK: Tensor

    def correlations(self, rows: Pair) -> Tensor:
        """[K] correlation of the two sides along each pair of directions, on the rows given by their moments."""
        cross_K = (self.source_SK * (rows.xy_ST @ self.target_TK)).sum(0)
        source_K = (self.source_SK * (rows.xx_SS @ self.source_SK)).sum(0)
        target_K = (self.target_TK * (rows.yy_TT @ self.target_TK)).sum(0)
        return cross_K / (source_K * target_K).sqrt()


def fit_cca(train: Pair, *, ridge: float = 0.0, variance: float = 1.0) -> Cca:
    """Canonical correlation analysis by whitening both sides (Hotelling 1936).

    `ridge` is added to both covariances in units of their mean variance; `variance` < 1 first keeps the principal
    components that hold that share (SVCCA: Raghu et al. 2017).
    """
    source_SP, target_TP = _whitener(train.xx_SS, ridge, variance), _whitener(train.yy_TT, ridge, variance)
    left, _, right = torch.linalg.svd(source_SP.T @ train.xy_ST @ target_TP, full_matrices=False)
    return Cca(source_SP @ left, target_TP @ right.T)


def widest(gram_DD: Tensor, k: int) -> Tensor:
    """[D, k] the principal directions of greatest variance, none if k = 0."""
    return torch.linalg.eigh(gram_DD).eigenvectors.flip(1)[:, :k]


def cka_without(rows: Pair, source_SK: Tensor, target_TK: Tensor) -> float:
    """Linear CKA |X'Y|^2 / (|X'X| |Y'Y|) once the given orthonormal directions are removed from both sides.

    A few directions of huge variance decide a linear CKA; what is left without them is the rest's agreement. Biased
    upwards by about width / n.
    """
    cross = _remove(rows.xy_ST, source_SK, target_TK).square().sum()
    source, target = _remove(rows.xx_SS, source_SK, source_SK), _remove(rows.yy_TT, target_TK, target_TK)
    return float(cross / (source.norm() * target.norm()))


def retrieval(mapped_NT: Tensor, target_NT: Tensor, ks: tuple[int, ...], block: int = 1024) -> dict[int, float]:
    """Share of rows whose own target row is among the k of highest cosine to the mapped row, of all n.

    Ties are broken at random, in expectation: a map that sends every row to one point scores k / n.
    """
    mapped_NT, target_NT = unit_rows(mapped_NT), unit_rows(target_NT)
    hits = dict.fromkeys(ks, 0.0)
    for start in range(0, len(mapped_NT), block):
        cosine_BN = mapped_NT[start : start + block] @ target_NT.T
        own_B1 = cosine_BN.diagonal(start)[:, None]
        better_B = (cosine_BN > own_B1 + TIE).sum(1)
        tied_B = ((cosine_BN - own_B1).abs() <= TIE).sum(1)
        for k in ks:
            hits[k] += float(((k - better_B) / tied_B).clamp(0, 1).sum())
    return {k: hit / len(mapped_NT) for k, hit in hits.items()}


def mean_cosine(mapped_NT: Tensor, target_NT: Tensor) -> float:
    """Mean over rows of the cosine of mapped and target row."""
    return float((unit_rows(mapped_NT) * unit_rows(target_NT)).sum(1).mean())


def effective_rank(M_ST: Tensor) -> float:
    """exp of the entropy of the normalised singular values (Roy and Vetterli 2007)."""
    share = torch.linalg.svdvals(M_ST)
    share = share[share > 0] / share.sum()
    return float(np.exp(-(share * share.log()).sum().item()))


def _whitener(gram_DD: Tensor, ridge: float, variance: float) -> Tensor:
    values, vectors = torch.linalg.eigh(gram_DD)
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    share = values.cumsum(0) / values.sum()
    n_kept = min(int((share < variance).sum()) + 1, int((values > 1e-12 * values[0]).sum()))
    shrunk = values[:n_kept] + ridge * values.mean()
    return vectors[:, :n_kept] / shrunk.sqrt()


def _remove(gram_ST: Tensor, source_SK: Tensor, target_TK: Tensor) -> Tensor:
    gram_ST = gram_ST - source_SK @ (source_SK.T @ gram_ST)
    return gram_ST - (gram_ST @ target_TK) @ target_TK.T
