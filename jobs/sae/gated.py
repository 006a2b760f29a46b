"""Gated: one path decides which features speak, another how loudly (Rajamanoharan et al. 2024, arXiv 2404.16014).

B rows of a batch, F features.
"""

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor

from jobs.sae.codes import Codes, Dense
from jobs.sae.parts import Forward, Hears, Own, State
from storage.value import Value


class Gated(Value, tag_field="kind", tag="gated"):
    """z = [g > 0] relu(exp(r) W x + b_mag) with the gate g = W x + b_enc."""

    l1: Annotated[float, Meta(ge=0)] = 0.4
    """Weight of sum_f relu(g_f) |W_f| / sqrt(D), beside a squared error per dimension of variance about 1."""

    def start(self, width: int) -> Own:
        """Both paths alike."""
        return Own(trained={"r": torch.zeros(width), "b_mag": torch.zeros(width)})

    def encode(self, hears: Hears, own: State, training: bool) -> Codes:
        """Magnitudes where the gate is open."""
        gate_BF = hears.all_BF
        loud_BF = own["r"].exp() * (gate_BF - hears.b_F) + own["b_mag"]
        return Dense((gate_BF > 0) * loud_BF.relu())

    def penalty(self, forward: Forward, own: State) -> Tensor:
        """The gates' l1, and the error of what the gates alone rebuild with a decoder that does not move."""
        open_BF = forward.hears.all_BF.relu()
        sparsity = self.l1 * (open_BF @ forward.lengths_F.detach()).mean() * forward.per_dimension
        rebuilt_BE = open_BF @ forward.atoms_FE.detach()
        return sparsity + (forward.target_BE.detach() - rebuilt_BE).square().mean()
