"""Ridge regression from sums: read the data once, solve for every penalty and every target together.

B examples of a block, D width of the site, K outputs of all targets side by side, L penalties.
"""

from typing import NamedTuple

import torch
from torch import Tensor

SMALLEST = 1e-30
"""Variance below which a penalty does not go: states that are all the same leave the intercept alone."""


class Linear(NamedTuple):
    """A map from states to scores: x W + b."""

    W_DK: Tensor
    b_K: Tensor


class Gram:
    """Sums over examples, in float64, that hold all that a squared error needs; they add up over blocks."""

    def __init__(self, width: int, n_outputs: int, device: str = "cpu") -> None:
        self.n = 0
        self.x_D = torch.zeros(width, dtype=torch.float64, device=device)
        self.y_K = torch.zeros(n_outputs, dtype=torch.float64, device=device)
        self.xx_DD = torch.zeros(width, width, dtype=torch.float64, device=device)
        self.xy_DK = torch.zeros(width, n_outputs, dtype=torch.float64, device=device)
        self.yy_K = torch.zeros(n_outputs, dtype=torch.float64, device=device)

    def add(self, x_BD: Tensor, y_BK: Tensor) -> None:
        """Count these examples; subtract a rough mean from `x_BD` beforehand, or large means cost digits."""
        x_BD, y_BK = x_BD.double(), y_BK.double()
        self.n += len(x_BD)
        self.x_D += x_BD.sum(0)
        self.y_K += y_BK.sum(0)
        self.xx_DD.addmm_(x_BD.T, x_BD)
        self.xy_DK.addmm_(x_BD.T, y_BK)
        self.yy_K += y_BK.square().sum(0)

    def covariance(self) -> Tensor:
        """Covariance of the states [D, D]."""
        return self.xx_DD / self.n - torch.outer(self.x_D, self.x_D) / self.n**2

    def squared_error(self, fit: Linear) -> Tensor:
        """Sum over these examples of (y - x W - b)^2, for each output [K]."""
        W_DK, b_K = fit
        linear_K = (W_DK * self.xy_DK).sum(0) + b_K * self.y_K
        square_K = (W_DK * (self.xx_DD @ W_DK)).sum(0) + 2 * b_K * (self.x_D @ W_DK) + self.n * b_K.square()
        return self.yy_K - 2 * linear_K + square_K


def ridge_path(gram: Gram, penalties: tuple[float, ...]) -> list[Linear]:
    """argmin ||Y - XW - b||^2 + a ||W||^2 for each penalty, with the intercept b not penalised.

    W = (S + a I)^-1 C with S, C the centred sums x'x and x'y; one eigendecomposition of S serves every penalty.
    A penalty is in units of the mean eigenvalue of S, so a = penalty * trace(S) / D.
    """
    S_DD = gram.covariance() * gram.n
    C_DK = gram.xy_DK - torch.outer(gram.x_D, gram.y_K) / gram.n
    values_D, V_DD = torch.linalg.eigh(S_DD)
    turned_DK = V_DD.T @ C_DK
    unit = values_D.clamp(min=0).mean().clamp(min=SMALLEST)
    path = []
    for penalty in penalties:
        W_DK = V_DD @ (turned_DK / (values_D.clamp(min=0) + penalty * unit)[:, None])
        path.append(Linear(W_DK, (gram.y_K - gram.x_D @ W_DK) / gram.n))
    return path
