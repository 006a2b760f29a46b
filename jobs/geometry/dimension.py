"""How many dimensions does a neighbourhood fill? Local principal components, and three cross-checks.

Shapes: N points, Q queried, K neighbours each, M eigenvalues, D width.
"""

import torch
from torch import Tensor


def local_dimension(spectra_QM: Tensor, tau: float) -> Tensor:
    """How many of the largest eigenvalues make up the share tau of a neighbourhood's variance; 0 where it has none."""
    total_Q1 = spectra_QM.sum(1, keepdim=True)
    short_QM = spectra_QM.cumsum(1) < tau * total_Q1
    return (short_QM.sum(1) + 1) * (total_Q1.squeeze(1) > 0)


def participation_ratio(spectra_QM: Tensor) -> Tensor:
    """(sum l)^2 / sum l^2: the number of equal eigenvalues that would be as spread out."""
    return spectra_QM.sum(1).square() / spectra_QM.square().sum(1)


def likelihood_dimension(distances_NK: Tensor) -> float:
    """Levina & Bickel (2004) from distances in rising order, averaged over points as inverses (MacKay & Ghahramani).

    1/d = mean over points and j < k of log(T_k / T_j). With two neighbours it is TwoNN (Facco et al. 2017). Points
    with a copy of themselves (T_1 = 0) say nothing and are left out; nan where that leaves none.
    """
    distances_NK = distances_NK[distances_NK[:, 0] > 0]
    inverse = (distances_NK[:, -1:] / distances_NK[:, :-1]).log().mean()
    return float(1 / inverse)


def gaussian_like(x_ND: Tensor, seed: int) -> Tensor:
    """As many points from a Gaussian with the mean and covariance of `x`."""
    generator = torch.Generator().manual_seed(seed)
    mean_D = x_ND.mean(0, dtype=torch.float64)
    apart_ND = x_ND.double() - mean_D
    values_D, vectors_DD = torch.linalg.eigh(apart_ND.T @ apart_ND / (len(x_ND) - 1))
    noise_ND = torch.randn(x_ND.shape, generator=generator, dtype=torch.float64).to(x_ND.device)
    return (mean_D + noise_ND @ (vectors_DD * values_D.clamp_min(0).sqrt()).T).float()
