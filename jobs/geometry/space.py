"""The local geometry of one set of points: neighbours, LLE weights, intrinsic dimension, each with its null.

Shapes: N points, Q of them queried, K neighbours each, M eigenvalues, D width.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from msgspec import Meta
from torch import Tensor

from jobs.core.linalg import barycentric_weights, centred, unit_rows
from jobs.core.neighbours import Neighbours, nearest, neighbourhoods
from jobs.geometry.dimension import (
    gaussian_like,
    likelihood_dimension,
    local_dimension,
    participation_ratio,
    spectra,
)
from storage.value import Value

Metric = Literal["euclidean", "cosine"]


class Dimension(Value):
    """How the intrinsic dimension is measured: principal components of each point's neighbourhood."""

    k: Annotated[int, Meta(ge=2)] = 1200
    """Neighbours; the dimension cannot exceed k - 1, so it means something only where k is above the width."""
    tau: Annotated[float, Meta(gt=0, lt=1)] = 0.95
    """Share of a neighbourhood's variance that the dimensions have to explain."""
    points: Annotated[int, Meta(ge=3)] = 500
    """Points at which it is measured, drawn from all of them."""
    allow_saturated: bool = False
    """Go on where k is not above the width; the report then says that k, not the points, limits the dimension."""


class Local(Value):
    """How neighbourhoods are taken and rebuilt."""

    k: int
    metric: Metric
    reg: float
    dimension: Dimension
    ks: tuple[int, ...] = ()
    """Further numbers of neighbours at which LLE weights are compared."""


@dataclass(frozen=True)
class Space:
    """What was measured of one set of points."""

    name: str
    x_ND: Tensor
    near: Neighbours
    """The k nearest of each point."""
    weights_NK: Tensor
    """LLE weights of these."""
    further: Mapping[int, tuple[Tensor, Tensor]]
    """Neighbours and weights for each of the further numbers of them."""
    error_N: Tensor
    """Squared distance of each point from what its neighbours rebuild, over the points' mean variance."""
    random_error: float
    """Mean of the same with neighbours drawn at random."""
    queries_Q: Tensor
    dimension_Q: Tensor
    participation_Q: Tensor
    control_Q: Tensor
    """Dimension at the same places of a Gaussian with the same mean and covariance."""
    ceiling: int
    """The largest dimension that could have been found: min(k - 1, D)."""
    mean_cosine: float
    """Of two different points: near 1 where they share a direction."""
    cross_checks: dict[str, tuple[float, float]]
    """Other estimates, and what they give for the Gaussian."""

    @property
    def saturated(self) -> bool:
        """Whether the number of neighbours, not the points, limits the dimension."""
        return self.ceiling < self.x_ND.shape[1]


def measure(name: str, x_ND: Tensor, local: Local, queries_Q: Tensor, seed: int) -> Space:
    """The local geometry of `x`, its dimension at the queried points only."""
    widest = nearest(_ruler(x_ND, local.metric), max((local.k, *local.ks)))
    near = Neighbours(*(part[:, : local.k] for part in widest))
    all_N = torch.arange(len(x_ND), device=x_ND.device)
    variance = centred(x_ND).double().square().sum(1).mean()
    weights_NK, residual_N = barycentric_weights(x_ND, all_N, near.indices_QK, local.reg)
    random_NK = _random_neighbours(len(x_ND), local.k, seed).to(x_ND.device)
    _, random_residual_N = barycentric_weights(x_ND, all_N, random_NK, local.reg)
    control_ND = gaussian_like(x_ND, seed)
    spectra_QM, control_QM = (_spectra(x, local, queries_Q) for x in (x_ND, control_ND))
    return Space(
        name=name,
        x_ND=x_ND,
        near=near,
        weights_NK=weights_NK,
        further={k: _weights(x_ND, widest.indices_QK[:, :k], local.reg) for k in local.ks},
        error_N=residual_N / variance,
        random_error=float(random_residual_N.mean() / variance),
        queries_Q=queries_Q,
        dimension_Q=local_dimension(spectra_QM, local.dimension.tau),
        participation_Q=participation_ratio(spectra_QM),
        control_Q=local_dimension(control_QM, local.dimension.tau),
        ceiling=spectra_QM.shape[1],
        mean_cosine=_mean_cosine(x_ND),
        cross_checks=_cross_checks(near, spectra_QM, control_ND, control_QM, local),
    )


def _weights(x_ND: Tensor, near_NK: Tensor, reg: float) -> tuple[Tensor, Tensor]:
    all_N = torch.arange(len(x_ND), device=x_ND.device)
    return near_NK, barycentric_weights(x_ND, all_N, near_NK, reg)[0]


def _ruler(x_ND: Tensor, metric: Metric) -> Tensor:
    """The rows between which Euclidean distance is the metric's order."""
    return unit_rows(x_ND) if metric == "cosine" else x_ND


def _spectra(x_ND: Tensor, local: Local, queries_Q: Tensor) -> Tensor:
    near_QK = neighbourhoods(_ruler(x_ND, local.metric), local.dimension.k, queries_Q)
    return spectra(x_ND, near_QK, local.dimension.tau)


def _mean_cosine(x_ND: Tensor) -> float:
    unit_ND = unit_rows(x_ND.double())
    n = len(x_ND)
    return float((unit_ND.sum(0).square().sum() - unit_ND.square().sum()) / (n * (n - 1)))


def _random_neighbours(n: int, k: int, seed: int) -> Tensor:
    """k other points for each point; one may be drawn twice."""
    steps_NK = torch.randint(1, n, (n, k), generator=torch.Generator().manual_seed(seed))
    return (torch.arange(n)[:, None] + steps_NK) % n


def _cross_checks(
    near: Neighbours, spectra_QM: Tensor, control_ND: Tensor, control_QM: Tensor, local: Local
) -> dict[str, tuple[float, float]]:
    distances_NK = near.distances_QK
    control_NK = nearest(_ruler(control_ND, local.metric), local.k).distances_QK
    ratios = [float(participation_ratio(of_QM).median()) for of_QM in (spectra_QM, control_QM)]
    return {
        "two_nn": (likelihood_dimension(distances_NK[:, :2]), likelihood_dimension(control_NK[:, :2])),
        "likelihood": (likelihood_dimension(distances_NK), likelihood_dimension(control_NK)),
        "participation": (ratios[0], ratios[1]),
    }
