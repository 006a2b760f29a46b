"""The directions at one site, and how well they tell documents apart that they were not fitted on.

N examples, M of them in training pairs, D width of the site, P pairs, H = 2P their halves.
"""

from dataclasses import dataclass
from typing import assert_never

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from jobs.contrast.config import Config, Method
from jobs.contrast.sides import Sides
from jobs.core.linalg import blocks
from jobs.probe.examples import read_blocks
from jobs.probe.logistic import design, fit_logistic
from storage.errors import InputError
from storage.reader import Activations
from storage.site import Site


@dataclass(frozen=True)
class Found:
    """One method's vector at one site."""

    site: Site
    method: Method
    vector_D: np.ndarray
    """float32; it has the norm of the mean difference."""
    auroc: float
    """Of held-out examples' projections."""
    validation: float
    """The same of validation examples, by which a site is chosen."""
    null: float
    """Mean AUROC where sides are exchanged at random, in the fit and in what it is judged by."""
    relative_norm: float
    """Of the vector, over the mean norm of the states."""
    cosine: float
    """With the mean difference."""

    @property
    def line(self) -> dict[str, object]:
        """Of the table."""
        return {
            "site": str(self.site),
            "method": self.method,
            "auroc": self.auroc,
            "null_auroc": self.null,
            "norm": float(np.linalg.norm(self.vector_D)),
            "relative_norm": self.relative_norm,
            "cosine_with_mean_difference": self.cosine,
        }


def study_site(config: Config, acts: Activations, sides: Sides, device: str) -> list[Found]:
    """Every method at this site; vectors of zero where the two sides' means are the same up to rounding."""
    x_ND = torch.cat([x_BD for _, x_BD in read_blocks(acts, sides.examples, device)])
    if not bool(x_ND.isfinite().all()):
        raise InputError(f"{acts.site} has states that are not finite: take another site")
    if _same(x_ND, sides):
        return [_nothing(method, x_ND.shape[1], acts.site) for method in config.methods]
    nulls = [sides.exchanged(np.random.default_rng([config.seed, at])) for at in range(config.shuffles)]
    return [_found(config, method, x_ND, sides, nulls, acts.site) for method in config.methods]


def _found(config: Config, method: Method, x_ND: Tensor, sides: Sides, nulls: list[np.ndarray], site: Site) -> Found:
    def fit(y_N: np.ndarray) -> Tensor:
        return direction(config, method, x_ND, y_N, sides)

    difference_D = mean_difference(x_ND, sides.y_N, sides.parts.train)
    vector_D = fit(sides.y_N)
    vector_D = vector_D * difference_D.norm() / vector_D.norm()
    return Found(
        site=site,
        method=method,
        vector_D=vector_D.cpu().numpy().astype(np.float32),
        auroc=_auroc(x_ND, vector_D, sides.y_N, sides.parts.test),
        validation=_auroc(x_ND, vector_D, sides.y_N, sides.parts.validation),
        null=float(np.mean([_auroc(x_ND, fit(y_N), y_N, sides.parts.test) for y_N in nulls])),
        relative_norm=float(vector_D.norm() / x_ND.norm(dim=1).double().mean()),
        cosine=float(torch.cosine_similarity(vector_D, difference_D, dim=0)),
    )


def _same(x_ND: Tensor, sides: Sides) -> bool:
    difference = mean_difference(x_ND, sides.y_N, sides.parts.train).norm()
    return float(difference) <= torch.finfo(torch.float32).eps * float(x_ND.norm(dim=1).double().mean())


def _nothing(method: Method, width: int, site: Site) -> Found:
    return Found(site, method, np.zeros(width, np.float32), 0.5, 0.5, 0.5, 0.0, 0.0)


def direction(config: Config, method: Method, x_ND: Tensor, y_N: np.ndarray, sides: Sides) -> Tensor:
    """From the negative to the positive side, float64 [D], of any length."""
    match method:
        case "mean_difference":
            return mean_difference(x_ND, y_N, sides.parts.train)
        case "pca":
            return first_component(x_ND, y_N, sides)
        case "probe":
            return probe_direction(config, x_ND, y_N, sides)
        case _:
            assert_never(method)


def mean_difference(x_ND: Tensor, y_N: np.ndarray, mask_N: np.ndarray) -> Tensor:
    """Of the two sides' means, float64 [D]."""
    means = [x_ND[_rows(mask_N & (y_N == side), x_ND)].mean(0, dtype=torch.float64) for side in (1, 0)]
    return means[0] - means[1]


def first_component(x_ND: Tensor, y_N: np.ndarray, sides: Sides) -> Tensor:
    """The direction in which positive minus negative, pair by pair, is largest: argmax_v sum_p (v . d_p)^2 for |v| = 1.

    The differences are not centred, for their mean is what is looked for. It points along it.
    """
    differences_PD = _pair_differences(x_ND, y_N, sides)
    _, vectors_DD = torch.linalg.eigh(differences_PD.T @ differences_PD)
    first_D = vectors_DD[:, -1]
    return first_D * (1.0 if differences_PD.sum(0) @ first_D >= 0 else -1.0)


def probe_direction(config: Config, x_ND: Tensor, y_N: np.ndarray, sides: Sides) -> Tensor:
    """The weights of a logistic probe, at the penalty that validation chooses."""
    train_N, validation_N = (_rows(mask, x_ND) for mask in (sides.parts.train, sides.parts.validation))
    y = torch.from_numpy(y_N).to(x_ND.device)
    fitted = fit_logistic(
        design(x_ND[train_N].clone()),
        y[None, train_N],
        x_ND[validation_N],
        y[None, validation_N],
        [2],
        config.penalties,
    )
    W_DK = fitted[0].fit.W_DK
    return (W_DK[:, 1] - W_DK[:, 0]).double()


def _pair_differences(x_ND: Tensor, y_N: np.ndarray, sides: Sides) -> Tensor:
    """Mean of each pair's positive examples minus that of its negative ones, float64 [P, D]; training pairs alone."""
    mask_N = sides.parts.train & (sides.pair_N >= 0)
    pairs, pair_M = np.unique(sides.pair_N[mask_N], return_inverse=True)
    if len(pairs) < 2:
        raise InputError(
            f"{len(pairs)} pairs to fit on have documents of both sides; pca wants two at least: give both documents "
            "of a pair one value in the pair column"
        )
    half_M = 2 * pair_M + y_N[mask_N]
    sums_HD = torch.zeros(2 * len(pairs), x_ND.shape[1], dtype=torch.float64, device=x_ND.device)
    rows_M, places_M = _rows(mask_N, x_ND), torch.from_numpy(half_M).to(x_ND.device)
    for part in blocks(len(rows_M), 12 * x_ND.shape[1]):
        sums_HD.index_add_(0, places_M[part], x_ND[rows_M[part]].double())
    means_P2D = (sums_HD / places_M.bincount()[:, None]).view(len(pairs), 2, -1)
    return means_P2D[:, 1] - means_P2D[:, 0]


def _auroc(x_ND: Tensor, vector_D: Tensor, y_N: np.ndarray, mask_N: np.ndarray) -> float:
    rows_N = _rows(mask_N, x_ND)
    projected_N = x_ND[rows_N].double() @ vector_D.double()
    return float(roc_auc_score(y_N[mask_N], projected_N.cpu().numpy()))


def _rows(mask_N: np.ndarray, x_ND: Tensor) -> Tensor:
    return torch.from_numpy(np.flatnonzero(mask_N)).to(x_ND.device)
