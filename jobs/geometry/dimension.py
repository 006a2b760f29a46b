"""How many dimensions does a neighbourhood fill? Local principal components, and three cross-checks.

Shapes: N points, Q queried, K neighbours each, M eigenvalues, D width.
"""

import torch
from torch import Tensor

from jobs.core.linalg import local_spectra, mean_and_scatter, quick_spectra

_DRAWN = 4096
"""Points of a Gaussian that are drawn at a time, whatever the working memory is."""


def local_dimension(spectra_QM: Tensor, tau: float) -> Tensor:
    """How many of the largest eigenvalues make up the share tau of a neighbourhood's variance; 0 where it has none."""
    total_Q1 = spectra_QM.sum(1, keepdim=True)
    short_QM = spectra_QM.cumsum(1) < tau * total_Q1
    return (short_QM.sum(1) + 1) * (total_Q1.squeeze(1) > 0)


def spectra(x_ND: Tensor, near_QK: Tensor, tau: float) -> Tensor:
    """Eigenvalues of each neighbourhood, float64 [Q, M]: to float32's precision, unless the dimension hangs on it."""
    spectra_QM = quick_spectra(x_ND, near_QK)
    unsure_Q = torch.nonzero(is_close_call(spectra_QM, tau)).squeeze(1)
    spectra_QM[unsure_Q] = local_spectra(x_ND, near_QK[unsure_Q])
    return spectra_QM


def is_close_call(spectra_QM: Tensor, tau: float, close: float = 5e-6) -> Tensor:
    """Whether some number of components explains tau so nearly that float32 could miscount them; bool [Q].

    Shares of the variance differ by less than 1e-6 between float32 and float64, also far from the origin and beside
    massive dimensions.
    """
    share_QM = spectra_QM.cumsum(1) / spectra_QM.sum(1, keepdim=True)
    return ((share_QM - tau).abs() < close).any(1) | share_QM.isnan().any(1)


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
    mean_D, scatter_DD = mean_and_scatter(x_ND)
    values_D, vectors_DD = torch.linalg.eigh(scatter_DD / (len(x_ND) - 1))
    spread_DD = (vectors_DD * values_D.clamp_min(0).sqrt()).T
    drawn_ND = torch.empty_like(x_ND, dtype=torch.float32)
    for start in range(0, len(x_ND), _DRAWN):
        part = drawn_ND[start : start + _DRAWN]
        noise_BD = torch.randn(part.shape, generator=generator, dtype=torch.float64).to(x_ND.device)
        part.copy_(mean_D + noise_BD @ spread_DD)
    return drawn_ND
