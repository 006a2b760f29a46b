"""What the parts of a coder are handed: tensors of their own, what the features hear, and one forward pass.

B rows of a batch, F features, D dimensions of an input, E dimensions of a target.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from jobs.sae.codes import Codes, Sparse
from jobs.sae.picking import pick, pick_above, pick_of_batch


@dataclass(frozen=True)
class Batch:
    """Rows to encode and rows to rebuild, which are the same but for a transcoder."""

    x_BD: Tensor
    y_BE: Tensor


@dataclass(frozen=True)
class Own:
    """Tensors that a part of a coder starts with, by name."""

    trained: Mapping[str, Tensor] = field(default_factory=dict)
    """Moved by the optimiser."""
    kept: Mapping[str, Tensor] = field(default_factory=dict)
    """Set by the part itself, or never changed."""


class State(nn.Module):
    """The tensors of one part of a coder; saved and loaded with it."""

    def __init__(self, own: Own) -> None:
        super().__init__()
        for name, tensor in own.trained.items():
            self.register_parameter(name, nn.Parameter(tensor))
        for name, tensor in own.kept.items():
            self.register_buffer(name, tensor)

    def __getitem__(self, name: str) -> Tensor:
        found: Tensor = getattr(self, name)
        return found

    def __contains__(self, name: str) -> bool:
        return name in self._parameters or name in self._buffers

    @torch.no_grad()
    def fill(self, arrays: Mapping[str, np.ndarray], prefix: str) -> None:
        """Take over the arrays named `<prefix><name>`."""
        for name, tensor in [*self.named_parameters(), *self.named_buffers()]:
            tensor.copy_(torch.from_numpy(np.array(arrays[f"{prefix}{name}"])).reshape(tensor.shape))

    def arrays(self, prefix: str) -> dict[str, np.ndarray]:
        """All tensors, by `<prefix><name>`."""
        named = [*self.named_parameters(), *self.named_buffers()]
        return {f"{prefix}{name}": tensor.detach().cpu().numpy().copy() for name, tensor in named}


@dataclass(frozen=True)
class Hears:
    """What features hear of a batch, x W^T + b: worked out whole, or only where it is loudest."""

    x_BD: Tensor
    """Rows as the encoder sees them, without gradients."""
    W_FD: Tensor
    b_F: Tensor
    moved_D: Tensor | None = None
    """All zero, with the gradients of what is taken off every row alike: the sum over the rows is worked out once for
    each feature, which saves a product as large as the encoder's own."""

    @property
    def rows_BD(self) -> Tensor:
        """`x_BD`, with gradients."""
        return self.x_BD if self.moved_D is None else self.x_BD + self.moved_D

    @cached_property
    def bias_F(self) -> Tensor:
        """`b_F`, with the gradients of the rows."""
        return self.b_F if self.moved_D is None else self.b_F + self.W_FD.detach() @ self.moved_D

    @cached_property
    def all_BF(self) -> Tensor:
        """Every pre-activation."""
        return functional.linear(self.x_BD, self.W_FD, self.bias_F)

    def loudest(self, k: int) -> Sparse:
        """The k largest of each row; gradients reach only these."""
        return pick(self.x_BD, self.W_FD, self.bias_F, k)

    def loudest_of_batch(self, k: int) -> Sparse:
        """The B k largest of the batch where positive; gradients reach only these."""
        return pick_of_batch(self.x_BD, self.W_FD, self.bias_F, k)

    def above(self, least: float = 0.0) -> Codes:
        """Every pre-activation above `least` and zero; gradients reach only these."""
        return pick_above(self.x_BD, self.W_FD, self.bias_F, least)

    def of(self, features_M: Tensor) -> "Hears":
        """What some of the features hear."""
        return Hears(self.x_BD, self.W_FD[features_M], self.b_F[features_M])


@dataclass(frozen=True)
class Forward:
    """One forward pass in training, for what an activation asks beside a small error."""

    hears: Hears
    codes: Codes
    target_BE: Tensor
    """What codes are to rebuild: normalised, less the decoder's bias."""
    atoms_FE: Tensor
    blocks: tuple[int, ...]
    """Widths of the sources side by side in a target; their sum is E."""
    progress: float
    """Share of training that is over."""

    @cached_property
    def lengths_F(self) -> Tensor:
        """Length of each atom, summed over the sources: what one unit of a code costs (Lindsey et al. 2024)."""
        edges = pairwise(accumulate(self.blocks, initial=0))
        return torch.stack([self.atoms_FE[:, first:stop].norm(dim=1) for first, stop in edges]).sum(0)

    @property
    def per_dimension(self) -> float:
        """Brings a length in the space of targets to one dimension: 1 / sqrt(E)."""
        return float(self.target_BE.shape[1] ** -0.5)
