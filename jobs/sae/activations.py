"""Activations: which features of a row speak, and how loudly. Each is one class here and one place in the union.

B rows of a batch, F features, D dimensions of a hidden state, K active features per row.
"""

from typing import Annotated

from msgspec import Meta
from torch import Tensor
from torch.nn import functional

from jobs.sae.codes import Codes, Dense, Sparse, pick
from storage.value import Value


class TopK(Value, tag_field="kind", tag="topk"):
    """The k largest pre-activations of each row, where positive (Gao et al. 2024, arXiv 2406.04093)."""

    k: Annotated[int, Meta(ge=1)] = 32
    """Features per row, at most."""

    def encode(self, x_BD: Tensor, W_FD: Tensor, b_F: Tensor) -> Codes:
        """z = relu(TopK(x W^T + b))."""
        values_BK, features_BK = pick(x_BD, W_FD, b_F, self.k)
        return Sparse(values_BK.relu(), features_BK)


class Relu(Value, tag_field="kind", tag="relu"):
    """Every positive pre-activation, kept few by an l1 penalty."""

    l1: Annotated[float, Meta(ge=0)] = 0.1
    """Weight of sum_f z_f |W_f| / sqrt(D), beside a squared error per dimension of variance about 1."""

    def encode(self, x_BD: Tensor, W_FD: Tensor, b_F: Tensor) -> Codes:
        """z = relu(x W^T + b)."""
        return Dense(functional.linear(x_BD, W_FD, b_F).relu())


Activation = TopK | Relu
