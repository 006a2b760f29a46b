"""Yes-or-no questions about examples: balanced draws, and the linear probes that answer them.

N examples to fit on, M to score, D inputs of a probe (dimensions or features), P problems over the same examples.
"""

from typing import NamedTuple

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from jobs.core.linalg import blocks
from jobs.probe.logistic import Design, design, fit_logistic
from jobs.probe.ridge import Linear

_PENALTIES = (10.0, 1.0, 0.1, 1e-2, 1e-3)
"""Tried from the largest down, in units of the mean variance of an input."""
_SMALL_PENALTY = 1e-3
"""For probes of a few inputs, which have nothing to overfit."""
_TOLERANCE = 1e-3
"""Of a gradient in coordinates where the problem is nearly round."""
_MOST_STEPS = 1000
_FLAT = 1e-9
"""Eigenvalues below this share of the largest are rounding."""


class Plane(NamedTuple):
    """A linear probe: the answer is yes where x . w + b > 0."""

    w_D: Tensor
    b: float

    def scores(self, x_MD: Tensor) -> Tensor:
        """x . w + b."""
        return x_MD @ self.w_D + self.b


def balanced(has_N: np.ndarray, among_M: np.ndarray, most: int, random: np.random.Generator) -> np.ndarray:
    """As many examples with as without, of those at `among_M`, in random order: `most` in all at the most.

    Answering with the majority, or without looking, is then right half of the time.
    """
    yes, no = (random.permutation(among_M[has_N[among_M] == answer]) for answer in (True, False))
    n = min(len(yes), len(no), most // 2)
    return random.permutation(np.concatenate([yes[:n], no[:n]]))


def accuracy(scores_M: Tensor, has_M: Tensor) -> float:
    """Share of examples on the right side of 0."""
    return float(((scores_M > 0) == has_M).double().mean())


def fit_planes(x_ND: Tensor, has_PN: Tensor, seed: int) -> list[Plane]:
    """A logistic probe for each problem, its penalty chosen on a quarter of the examples."""
    order_N = torch.randperm(len(x_ND), generator=torch.Generator().manual_seed(seed))
    chosen_N, fitted_N = order_N.tensor_split([len(x_ND) // 4])
    centre_D = x_ND[fitted_N].mean(0)
    space = _space(x_ND[fitted_N] - centre_D)
    if space is None:
        return [_silent(x_ND) for _ in has_PN]
    x_VR, y_PN = space.turned(x_ND[chosen_N] - centre_D), has_PN.long()
    n_classes = [2] * len(y_PN)
    found = fit_logistic(space.design, y_PN[:, fitted_N], x_VR, y_PN[:, chosen_N], n_classes, _PENALTIES, _TOLERANCE)
    return [_plane(one.fit, space, centre_D) for one in found]


def fit_small(x_ND: Tensor, has_N: Tensor) -> Plane:
    """A logistic probe of a few inputs on all the examples."""
    variance = float(x_ND.var(0, unbiased=False).mean())
    if variance == 0:
        return _silent(x_ND)
    weight = 1 / (len(x_ND) * _SMALL_PENALTY * variance)
    solver = LogisticRegression(C=weight, solver="newton-cholesky", max_iter=_MOST_STEPS)
    found = solver.fit(x_ND.double().numpy(), has_N.numpy())
    return Plane(torch.from_numpy(found.coef_[0]).float(), float(found.intercept_[0]))


class _Space(NamedTuple):
    """Where a probe is fitted: the inputs themselves, or with fewer examples than inputs what the examples span.

    The largest penalised likelihood lies in that span, so nothing is lost.
    """

    design: Design
    basis_DR: Tensor | None

    def turned(self, x_MD: Tensor) -> Tensor:
        return x_MD if self.basis_DR is None else x_MD @ self.basis_DR


def _space(x_ND: Tensor) -> _Space | None:
    """None where all examples are the same; overwrites `x_ND`, which is centred."""
    n, d = x_ND.shape
    if not bool(x_ND.any()):
        return None
    if d <= n:
        return _Space(design(x_ND), None)
    gram_NN = torch.zeros(n, n, dtype=torch.float64)
    for part in blocks(d, 8 * n):
        x_NB = x_ND[:, part].double()
        gram_NN.addmm_(x_NB, x_NB.T)
    values_N, V_NN = torch.linalg.eigh(gram_NN)
    kept_N = values_N > _FLAT * values_N[-1]
    values_R, V_NR = values_N[kept_N], V_NN[:, kept_N]
    basis_DR = x_ND.T @ (V_NR / values_R.sqrt()).float()
    x_NR = (V_NR * values_R.sqrt()).float()
    eye_RR = torch.eye(len(values_R), dtype=torch.float64)
    return _Space(Design(x_NR, torch.zeros_like(values_R), values_R / n, eye_RR), basis_DR)


def _plane(fit: Linear, space: _Space, centre_D: Tensor) -> Plane:
    w_R = (fit.W_DK[:, 1] - fit.W_DK[:, 0]).float()
    w_D = w_R if space.basis_DR is None else space.basis_DR @ w_R
    b = float(fit.b_K[1] - fit.b_K[0]) - float(centre_D.double() @ w_D.double())
    return Plane(w_D, b)


def _silent(x_ND: Tensor) -> Plane:
    """Says no to everything."""
    return Plane(torch.zeros_like(x_ND[0]), 0.0)
