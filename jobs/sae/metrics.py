"""What a coder is worth on rows it did not see, and what the same numbers are where nothing was learnt.

B rows of a batch, F features, D dimensions of a hidden state, R directions, N documents, V values of a label.
"""

import math
from collections.abc import Iterable

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from jobs.sae.coder import Coder
from jobs.sae.codes import Codes
from jobs.sae.dictionaries import random_atoms
from jobs.sae.parts import Batch
from jobs.sae.picking import pick


class Spread:
    """Sum of squared deviations from the per-dimension mean, over batches; float64."""

    def __init__(self, near_D: Tensor) -> None:
        """`near_D` is any point near the rows: taken off first, so that a large offset costs no digits."""
        self.n = 0
        self._near_D = near_D
        self._sum_D = torch.zeros_like(near_D, dtype=torch.float64)
        self._square = 0.0

    def add(self, x_BD: Tensor) -> None:
        """Count the rows of a batch in."""
        x_BD = x_BD.double() - self._near_D.double()
        self.n += len(x_BD)
        self._sum_D += x_BD.sum(0)
        self._square += float(x_BD.square().sum())

    @property
    def total(self) -> float:
        """sum_n |x_n - mean|^2."""
        return self._square - self.offset

    @property
    def offset(self) -> float:
        """n |mean - near|^2: what `near_D` misses."""
        return float(self._sum_D.square().sum()) / max(self.n, 1)


def squared_error(x_BD: Tensor, x_hat_BD: Tensor) -> float:
    """|x - x_hat|^2 summed over the batch, in float64."""
    return float((x_BD - x_hat_BD).square().sum(dtype=torch.float64))


def fvu(x_BD: Tensor, x_hat_BD: Tensor) -> float:
    """Fraction of variance unexplained, |X - X_hat|^2 / |X - mean|^2 with a mean per dimension: 1 - R^2.

    NaN where all rows are the same.
    """
    spread = Spread(x_BD[0])
    spread.add(x_BD)
    return squared_error(x_BD, x_hat_BD) / spread.total if spread.total else math.nan


class Tally:
    """FVU, L0 and firing counts of a coder, over batches of held-out rows."""

    def __init__(self, coder: Coder, near_E: Tensor) -> None:
        """`near_E` is any point near the targets."""
        self.fired_F = torch.zeros(len(coder.b_enc_F), dtype=torch.int64)
        self._coder = coder
        self._spread = Spread(near_E)
        self._error = 0.0

    def add(self, batch: Batch, codes: Codes) -> None:
        """Count a batch and its codes in."""
        self._spread.add(batch.y_BE)
        self._error += squared_error(batch.y_BE, self._coder.decode(codes, batch.x_BD))
        self.fired_F += codes.active()[1].bincount(minlength=len(self.fired_F)).cpu()

    @property
    def n(self) -> int:
        """Rows counted."""
        return self._spread.n

    @property
    def fvu(self) -> float:
        """Error over the rows' spread about their own per-dimension mean."""
        return self._error / self._spread.total

    @property
    def l0(self) -> float:
        """Active features per row."""
        return float(self.fired_F.sum()) / self.n

    @property
    def density(self) -> np.ndarray:
        """Share of the rows in which each feature is not zero; 0 means dead."""
        density_F: np.ndarray = self.fired_F.numpy() / self.n
        return density_F


def principal_directions(batches: Iterable[Tensor], mean_D: Tensor) -> Tensor:
    """Directions [D, D] of the rows about `mean_D`, the one of largest variance first, in float64."""
    scatter_DD = torch.zeros(len(mean_D), len(mean_D), dtype=torch.float64, device=mean_D.device)
    for x_BD in batches:
        centred_BD = (x_BD - mean_D).double()
        scatter_DD += centred_BD.T @ centred_BD
    return torch.linalg.eigh(scatter_DD).eigenvectors.T.flip(0).float()


@torch.no_grad()
def linear_fvu(training: Iterable[Batch], held: Iterable[Batch]) -> float:
    """FVU of the best affine map from inputs to targets, least squares on `training`: what a transcoder is beside."""
    first, *rest = training
    gram_DD, cross_DE = _products(first)
    for batch in rest:
        more_DD, more_DE = _products(batch)
        gram_DD, cross_DE = gram_DD + more_DD, cross_DE + more_DE
    map_DE = torch.linalg.pinv(gram_DD, hermitian=True) @ cross_DE
    spread, error = Spread(first.y_BE[0]), 0.0
    for batch in held:
        spread.add(batch.y_BE)
        error += squared_error(batch.y_BE, (_with_one(batch.x_BD) @ map_DE).to(batch.y_BE))
    return error / spread.total


def _products(batch: Batch) -> tuple[Tensor, Tensor]:
    """X^T X and X^T Y, with a column of ones in X."""
    x_BD = _with_one(batch.x_BD)
    return x_BD.T @ x_BD, x_BD.T @ batch.y_BE.double()


def _with_one(x_BD: Tensor) -> Tensor:
    """Rows in float64 with a one behind each, for the map's constant."""
    return torch.cat([x_BD, torch.ones_like(x_BD[:, :1])], dim=1).double()


@torch.no_grad()
def baselines(
    batches: Iterable[Tensor], width: int, directions_RD: Tensor, mean_D: Tensor, k: int, seed: int
) -> tuple[float, float]:
    """FVU of a random dictionary and of PCA, each with k numbers per row.

    The random dictionary has `width` atoms; each row keeps its k largest projections, scaled by the one factor
    that suits these very rows best, so the null is a generous one.
    """
    atoms_FD = random_atoms(width, len(mean_D), seed).to(mean_D)
    spread, pca_error, cross, square = Spread(mean_D), 0.0, 0.0, 0.0
    for x_BD in batches:
        spread.add(x_BD)
        centred_BD = x_BD - mean_D
        pca_error += squared_error(centred_BD, centred_BD @ directions_RD.T @ directions_RD)
        random_BD = pick(centred_BD, atoms_FD, torch.zeros_like(atoms_FD[:, 0]), k).positive().mix(atoms_FD)
        cross += float((centred_BD * random_BD).sum(dtype=torch.float64))
        square += float(random_BD.square().sum(dtype=torch.float64))
    uncentred = spread.total + spread.offset
    return (uncentred - cross**2 / max(square, 1e-300)) / spread.total, pca_error / spread.total


def auroc(ranks_NF: np.ndarray, positive_NV: np.ndarray) -> np.ndarray:
    """How often a positive example scores above a negative one, ties counting half: [V, F] (Mann-Whitney).

    `ranks_NF` is `rankdata(scores_NF, axis=0)`.
    """
    n_V1 = positive_NV.sum(axis=0)[:, None]
    wins_VF = positive_NV.T.astype(np.float64) @ ranks_NF - n_V1 * (n_V1 + 1) / 2
    areas: np.ndarray = wins_VF / (n_V1 * (len(ranks_NF) - n_V1))
    return areas


class Tellers:
    """For each value of a label, the feature that tells it best on one half of the documents, tested on the other."""

    def __init__(self, scores_NF: np.ndarray, seed: int) -> None:
        order_N = np.random.default_rng(seed).permutation(len(scores_NF))
        self.halves = order_N[::2], order_N[1::2]
        self._ranks = [rankdata(scores_NF[half], axis=0) for half in self.halves]

    def find(self, labels_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The feature for each value in sorted order, and its AUROC on the half that did not choose it."""
        positive_NV = labels_N[:, None] == np.unique(labels_N)
        best_V = auroc(self._ranks[0], positive_NV[self.halves[0]]).argmax(axis=1)
        tested_VV = auroc(self._ranks[1][:, best_V], positive_NV[self.halves[1]])
        return best_V, tested_VV.diagonal()


def purity(tokens_FR: np.ndarray) -> np.ndarray:
    """Share of each line's tokens that are its most common token: [F]."""
    ordered_FR = np.sort(tokens_FR, axis=1)
    longest_F, run_F = np.ones(len(tokens_FR), np.int64), np.ones(len(tokens_FR), np.int64)
    for column in range(1, tokens_FR.shape[1]):
        run_F = np.where(ordered_FR[:, column] == ordered_FR[:, column - 1], run_F + 1, 1)
        longest_F = np.maximum(longest_F, run_F)
    shares: np.ndarray = longest_F / tokens_FR.shape[1]
    return shares
