"""Codes of a batch, dense or sparse, and the products between sparse codes and weights.

B rows of a batch, F features (latents), D dimensions of a hidden state, K active features per row, A active entries.

On a CPU the products touch only the K active features of a row. Measured on one core at B = 4096, D = 128, F = 1024,
K = 32: choosing the features 8 ms (torch.topk: 34), decoding 0.4 ms (dense matmul: 12), gradient of the weights
1.5 ms (dense: 13). At D = 768, F = 8192 a whole training step is 3.7 times faster than the dense one.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Dense:
    """One value per row and feature."""

    z_BF: Tensor

    def mix(self, W_FD: Tensor) -> Tensor:
        """sum_f z_bf W_f: [B, D]."""
        return self.z_BF @ W_FD

    def within(self, first: int, stop: int) -> "Dense":
        """The codes of features [first, stop) alone."""
        inside_BF = torch.zeros_like(self.z_BF)
        inside_BF[:, first:stop] = self.z_BF[:, first:stop]
        return Dense(inside_BF)

    def active(self) -> tuple[Tensor, Tensor, Tensor]:
        """Row, feature and value of every non-zero code, by row and then by feature."""
        rows_A, features_A = self.z_BF.nonzero(as_tuple=True)
        return rows_A, features_A, self.z_BF[rows_A, features_A]

    def count(self) -> int:
        """How many codes are not zero."""
        return int((self.z_BF != 0).sum())

    def fired(self, width: int) -> Tensor:
        """Whether each feature is non-zero in some row: bool [F]."""
        return (self.z_BF != 0).any(0)


@dataclass(frozen=True)
class Sparse:
    """The candidates of each row, one row after the other, features ascending within a row; a value may be zero."""

    values_A: Tensor
    features_A: Tensor
    starts_B: Tensor
    """Where the candidates of each row begin, and past the last row: int64 [B + 1]."""

    @classmethod
    def even(cls, values_BK: Tensor, features_BK: Tensor) -> "Sparse":
        """K candidates for each row."""
        B, K = features_BK.shape
        starts_B = torch.arange(0, B * K + 1, max(K, 1), device=features_BK.device)[: B + 1]
        return cls(values_BK.reshape(-1), features_BK.reshape(-1), starts_B)

    @property
    def rows_A(self) -> Tensor:
        """The row of each candidate."""
        counts_B = self.starts_B.diff()
        return torch.arange(len(counts_B), device=counts_B.device).repeat_interleave(counts_B)

    def mix(self, W_FD: Tensor) -> Tensor:
        """sum_f z_bf W_f: [B, D]."""
        mixed: Tensor = _Mix.apply(self.values_A, self.features_A, self.starts_B, W_FD)  # type: ignore[no-untyped-call]
        return mixed

    def within(self, first: int, stop: int) -> "Sparse":
        """The codes of features [first, stop) alone."""
        mine_A = (self.features_A >= first) & (self.features_A < stop)
        return replace(self, values_A=self.values_A * mine_A)

    def positive(self) -> "Sparse":
        """The codes with negative values set to zero."""
        return replace(self, values_A=self.values_A.relu())

    def active(self) -> tuple[Tensor, Tensor, Tensor]:
        """Row, feature and value of every non-zero code, by row and then by feature."""
        at_A = self.values_A.nonzero().squeeze(1)
        return self.rows_A[at_A], self.features_A[at_A], self.values_A[at_A]

    def count(self) -> int:
        """How many codes are not zero."""
        return int(self.values_A.count_nonzero())

    def fired(self, width: int) -> Tensor:
        """Whether each of `width` features is non-zero in some row: bool [F]."""
        fired_F = torch.zeros(width, dtype=torch.bool, device=self.values_A.device)
        fired_F[self.features_A[self.values_A != 0]] = True
        return fired_F


Codes = Dense | Sparse

_FEW = 1 / 16
"""Share of non-zero codes below which products run over these alone."""


def gathers(like: Tensor) -> bool:
    """Whether products run over active features only, which is faster on a CPU; a GPU gets repeatable dense ones."""
    return like.device.type == "cpu"


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
    scores_BF = torch.nn.functional.linear(x_BD, W_FD, b_F)
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
        grad_x = _mix(grad, W_FD).to(x_BD) if ctx.needs_input_grad[0] else None
        grad_W = _spread(grad, x_BD, len(W_FD)).to(W_FD) if ctx.needs_input_grad[1] else None
        grad_b = _spread(grad, torch.ones_like(x_BD[:, :1]), len(W_FD)).squeeze(1) if ctx.needs_input_grad[2] else None
        return grad_x, grad_W, grad_b, None, None, None


class _Mix(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values_A: Tensor, features_A: Tensor, starts_B: Tensor, W_FD: Tensor) -> Tensor:
        ctx.save_for_backward(values_A, features_A, starts_B, W_FD)
        return _mix(Sparse(values_A, features_A, starts_B), W_FD)

    @staticmethod
    def backward(ctx: Any, grad_BD: Tensor) -> tuple[Tensor | None, ...]:
        values_A, features_A, starts_B, W_FD = ctx.saved_tensors
        codes = Sparse(values_A, features_A, starts_B)
        grad_values = _dots(grad_BD, codes, W_FD).to(values_A) if ctx.needs_input_grad[0] else None
        grad_W = _spread(codes, grad_BD, len(W_FD)).to(W_FD) if ctx.needs_input_grad[3] else None
        return grad_values, None, None, grad_W


def _mix(codes: Sparse, W_FD: Tensor) -> Tensor:
    if not gathers(W_FD):
        return _dense(codes, len(W_FD)).to(W_FD) @ W_FD
    return functional.embedding_bag(
        codes.features_A, W_FD, codes.starts_B[:-1], per_sample_weights=codes.values_A, mode="sum"
    )


def _dots(x_BD: Tensor, codes: Sparse, W_FD: Tensor) -> Tensor:
    """x_b . W_f for the candidates of each row: [A]."""
    if not gathers(W_FD):
        return (x_BD.to(W_FD) @ W_FD.T)[codes.rows_A, codes.features_A].to(x_BD)
    with torch.enable_grad():  # the gradient of embedding_bag by its weights is this very product, without a copy of W
        weights_A = torch.zeros(codes.features_A.shape, dtype=W_FD.dtype, requires_grad=True)
        mixed_BD = _mix(replace(codes, values_A=weights_A), W_FD.detach())
    return torch.autograd.grad(mixed_BD, weights_A, x_BD)[0]


def _spread(codes: Sparse, x_BD: Tensor, width: int) -> Tensor:
    """sum_b z_bf x_b: [F, D]."""
    if not gathers(x_BD):
        return _dense(codes, width).to(x_BD).T @ x_BD
    starts_B, columns_A = codes.starts_B.numpy().astype(np.int32), codes.features_A.numpy().astype(np.int32)
    z = scipy.sparse.csr_array((codes.values_A.numpy(), columns_A, starts_B), shape=(len(x_BD), width))
    return torch.from_numpy(z.T @ x_BD.numpy())


def _dense(codes: Sparse, width: int) -> Tensor:
    z_BF = codes.values_A.new_zeros(len(codes.starts_B) - 1, width)
    z_BF[codes.rows_A, codes.features_A] = codes.values_A
    return z_BF
