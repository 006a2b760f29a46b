"""Dictionaries: what the atoms (rows of the decoder) may be. Each is one class here and one place in the union.

F features, D dimensions of a hidden state.
"""

import torch
from torch import Tensor

from jobs.core.linalg import unit_rows
from storage.value import Value


class UnitNorm(Value, tag_field="kind", tag="unit_norm"):
    """Every atom has length 1, so that a code is a length in the space of the hidden states."""

    def project_gradient_(self, W_FD: Tensor, grad_FD: Tensor) -> None:
        """Drop the part of the gradient along each atom: it would only be undone by `project_`."""
        grad_FD -= (grad_FD * W_FD).sum(1, keepdim=True) * W_FD

    def project_(self, W_FD: Tensor) -> None:
        """Scale every atom back to length 1."""
        W_FD.copy_(unit_rows(W_FD))


class Free(Value, tag_field="kind", tag="free"):
    """Atoms of any length."""

    def project_gradient_(self, W_FD: Tensor, grad_FD: Tensor) -> None:
        """Nothing to drop."""

    def project_(self, W_FD: Tensor) -> None:
        """Nothing to restore."""


Dictionary = UnitNorm | Free


def random_atoms(width: int, d: int, seed: int) -> Tensor:
    """Unit atoms in uniformly random directions."""
    return unit_rows(torch.randn(width, d, generator=torch.Generator().manual_seed(seed)))
