"""Which features of a row speak: the largest of each row or of a batch, or all above a floor, with their gradients.

B rows of a batch, F features (latents), D dimensions of a hidden state, K active features per row, A active entries.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from jobs.sae.codes import Codes, Dense, Sparse, gathers, mix, spread

_FEW = 1 / 16
"""Share of non-zero codes below which products run over these alone."""


def largest(scores_BF: Tensor, k: int) -> Tensor:
    """The k largest of each row as ascending indices [B, K]; of equal scores the lower index wins."""
    if not gathers(scores_BF):
        return scores_BF.topk(k, dim=1).indices.sort(dim=1).values
    scores, width = scores_BF.numpy(), scores_BF.shape[1]
    threshold_B1 = np.partition(scores, width - k, axis=1)[:, width - k, None]
    kept_BF = scores >= threshold_B1
    flat = np.flatnonzero(kept_BF)
    if len(flat) != k * len(scores):
        _settle_ties(scores, kept_BF, k)
        flat = np.flatnonzero(kept_BF)
    return torch.from_numpy(flat.reshape(-1, k) % width)


def _settle_ties(scores_BF: np.ndarray, kept_BF: np.ndarray, k: int) -> None:
    """Keep exactly k in the rows (in place) where scores that equal the threshold made it more."""
    rows_T = np.flatnonzero(kept_BF.sum(axis=1) != k)
    order_TF = np.argsort(-scores_BF[rows_T], axis=1, kind="stable")
    kept_BF[rows_T] = False
    kept_BF[rows_T[:, None], order_TF[:, :k]] = True


def strongest(scores_BF: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """The n largest positive scores of a whole batch, all if they are fewer: their features, and where rows start.

    Of equal scores at the edge the first row's, and then the lower feature, win.
    """
    width = scores_BF.shape[1]
    flat_A = _largest_of_all(scores_BF, n)
    flat_A = flat_A[scores_BF.reshape(-1)[flat_A] > 0]
    edges_B = torch.arange(len(scores_BF) + 1, device=scores_BF.device) * width
    return flat_A % width, torch.searchsorted(flat_A, edges_B)


def _largest_of_all(scores_BF: Tensor, n: int) -> Tensor:
    """Ascending flat indices of the n largest."""
    flat_N = scores_BF.reshape(-1)
    n = min(n, len(flat_N))
    if not gathers(scores_BF):
        return flat_N.topk(n).indices.sort().values
    scores = flat_N.numpy()
    threshold = np.partition(scores, len(scores) - n)[len(scores) - n]
    above_A = np.flatnonzero(scores > threshold)
    level_A = np.flatnonzero(scores == threshold)[: n - len(above_A)]
    return torch.from_numpy(np.sort(np.concatenate([above_A, level_A])))


def pick(x_BD: Tensor, W_FD: Tensor, b_F: Tensor, k: int) -> Sparse:
    """The k largest of `x W^T + b` in each row; gradients reach only what was picked."""
    with torch.no_grad():
        scores_BF = torch.addmm(b_F, x_BD, W_FD.T)
        features_BK = largest(scores_BF, k)
    even = Sparse.even(scores_BF.gather(1, features_BK), features_BK)
    return listen(x_BD, W_FD, b_F, even)


def pick_of_batch(x_BD: Tensor, W_FD: Tensor, b_F: Tensor, k: int) -> Sparse:
    """The k positive largest per row of `x W^T + b` over a whole batch, wherever they are."""
    with torch.no_grad():
        scores_BF = torch.addmm(b_F, x_BD, W_FD.T)
        features_A, starts_B = strongest(scores_BF, k * len(x_BD))
        found = Sparse(features_A.new_zeros(0), features_A, starts_B)
        values_A = scores_BF[found.rows_A, features_A]
    return listen(x_BD, W_FD, b_F, replace(found, values_A=values_A))


def pick_above(x_BD: Tensor, W_FD: Tensor, b_F: Tensor, least: float) -> Codes:
    """Every `x W^T + b` above `least` and zero; sparse on a CPU where few are, for products are then faster."""
    scores_BF = functional.linear(x_BD, W_FD, b_F)
    floor = max(least, 0.0)
    if not gathers(x_BD):
        return Dense(functional.threshold(scores_BF, floor, 0.0))
    loud_BF = scores_BF.detach().numpy() > floor
    if np.count_nonzero(loud_BF) > _FEW * loud_BF.size:
        return Dense(functional.threshold(scores_BF, floor, 0.0))
    flat_A = torch.from_numpy(np.flatnonzero(loud_BF))
    edges_B = torch.arange(len(x_BD) + 1) * len(W_FD)
    found = Sparse(scores_BF.detach().reshape(-1)[flat_A], flat_A % len(W_FD), torch.searchsorted(flat_A, edges_B))
    return listen(x_BD, W_FD, b_F, found)


def listen(x_BD: Tensor, W_FD: Tensor, b_F: Tensor, found: Sparse) -> Sparse:
    """`found`, whose values are those of `x W^T + b`, with gradients."""
    values_A: Tensor = _Listen.apply(x_BD, W_FD, b_F, found.features_A, found.starts_B, found.values_A)  # type: ignore[no-untyped-call]
    return replace(found, values_A=values_A)


class _Listen(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_BD: Tensor, W_FD: Tensor, b_F: Tensor, features_A: Tensor, starts_B: Tensor, values_A: Tensor
    ) -> Tensor:
        ctx.save_for_backward(x_BD, W_FD, features_A, starts_B)
        return values_A.clone()

    @staticmethod
    def backward(ctx: Any, grad_A: Tensor) -> tuple[Tensor | None, ...]:
        x_BD, W_FD, features_A, starts_B = ctx.saved_tensors
        grad = Sparse(grad_A.contiguous(), features_A, starts_B)
        grad_x = mix(grad, W_FD).to(x_BD) if ctx.needs_input_grad[0] else None
        grad_W = spread(grad, x_BD, len(W_FD)).to(W_FD) if ctx.needs_input_grad[1] else None
        grad_b = spread(grad, torch.ones_like(x_BD[:, :1]), len(W_FD)).squeeze(1) if ctx.needs_input_grad[2] else None
        return grad_x, grad_W, grad_b, None, None, None
