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


def gathers(like: Tensor) -> bool:
    """Whether products run over active features only, which is faster on a CPU; a GPU gets repeatable dense ones."""
    return like.device.type == "cpu"


class _Mix(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values_A: Tensor, features_A: Tensor, starts_B: Tensor, W_FD: Tensor) -> Tensor:
        ctx.save_for_backward(values_A, features_A, starts_B, W_FD)
        return mix(Sparse(values_A, features_A, starts_B), W_FD)

    @staticmethod
    def backward(ctx: Any, grad_BD: Tensor) -> tuple[Tensor | None, ...]:
        values_A, features_A, starts_B, W_FD = ctx.saved_tensors
        codes = Sparse(values_A, features_A, starts_B)
        grad_values = _dots(grad_BD, codes, W_FD).to(values_A) if ctx.needs_input_grad[0] else None
        grad_W = spread(codes, grad_BD, len(W_FD)).to(W_FD) if ctx.needs_input_grad[3] else None
        return grad_values, None, None, grad_W


def mix(codes: Sparse, W_FD: Tensor) -> Tensor:
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
        mixed_BD = mix(replace(codes, values_A=weights_A), W_FD.detach())
    return torch.autograd.grad(mixed_BD, weights_A, x_BD)[0]


def spread(codes: Sparse, x_BD: Tensor, width: int) -> Tensor:
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
