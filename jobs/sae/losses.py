"""What training makes small: the error, the activation's own penalty, and the revival of dead features.

B rows of a batch, F features, D dimensions of an input, E of a target, M dead features.
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor
from torch.nn import functional

from jobs.sae.coder import Coder
from jobs.sae.codes import Codes
from jobs.sae.parts import Forward, Hears
from storage.value import Value


class AuxK(Value):
    """Dead features learn to rebuild what the live ones leave (Gao et al. 2024, appendix A.2)."""

    weight: Annotated[float, Meta(ge=0)] = 1 / 32
    """Weight beside the error; 0 turns it off."""
    dead_after: Annotated[int, Meta(ge=1)] = 100_000
    """Rows without firing after which a feature counts as dead."""


def total(
    coder: Coder,
    x_BD: Tensor,
    y_BE: Tensor,
    dead_F: Tensor,
    aux: AuxK,
    prefixes: Sequence[int] = (),
    progress: float = 0.0,
) -> tuple[Tensor, Codes, Tensor]:
    """The loss of a batch, its codes, and its squared error per dimension (where a dimension's variance is about 1).

    With prefixes the loss is the mean error over what each prefix of the features, and all of them, rebuild.
    """
    atoms_FE = coder.atoms()
    hears = coder.hears(x_BD)
    codes = coder.activation.encode(hears, coder.own_activation, coder.training)
    wanted_BE = coder.wanted(x_BD, y_BE)
    residuals = [wanted_BE - rebuilt_BE for rebuilt_BE in rebuilds(codes, atoms_FE, prefixes)]
    errors = torch.stack([residual_BE.square().mean() for residual_BE in residuals])
    loss = errors.mean()
    forward = Forward(hears, codes, wanted_BE, atoms_FE, coder.blocks, progress)
    if (penalty := coder.activation.penalty(forward, coder.own_activation)) is not None:
        loss = loss + penalty
    if aux.weight and bool(dead_F.any()):
        loss = loss + aux.weight * auxiliary(hears, atoms_FE, residuals[-1].detach(), dead_F)
    return loss, codes, errors[-1].detach()


def rebuilds(codes: Codes, atoms_FE: Tensor, prefixes: Sequence[int] = ()) -> list[Tensor]:
    """What each prefix of the features makes of the codes, and what all of them make: [B, E] each."""
    if not prefixes:
        return [codes.mix(atoms_FE)]
    parts = pairwise([0, *prefixes, len(atoms_FE)])
    return list(accumulate(codes.within(first, stop).mix(atoms_FE) for first, stop in parts))


def auxiliary(hears: Hears, atoms_FE: Tensor, residual_BE: Tensor, dead_F: Tensor) -> Tensor:
    """|e - e_hat|^2 / |e - mean e|^2: the residual e, and what the E/2 strongest dead features of a row make of it.

    0 where all residuals are the same, as those of a single row are: there is no spread to measure by.
    """
    dead_M = dead_F.nonzero().squeeze(1)
    k = min(len(dead_M), max(1, residual_BE.shape[1] // 2))
    rebuilt_BE = hears.of(dead_M).loudest(k).positive().mix(atoms_FE[dead_M])
    spread = (residual_BE - residual_BE.mean(0)).square().mean()
    rounding = torch.finfo(spread.dtype).eps * residual_BE.square().mean()
    return functional.mse_loss(rebuilt_BE, residual_BE) / spread.where(spread > rounding, torch.inf)
