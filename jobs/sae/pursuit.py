"""Pursuit: features chosen one after the other, each for what those before it left. They hear through their atoms.

B rows of a batch, F features, D dimensions, K features chosen per row.
"""

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor

from jobs.core.linalg import unit_rows
from jobs.sae.codes import Codes, Sparse
from jobs.sae.parts import Forward, Hears, Own, State
from storage.value import Value

_RIDGE = 1e-6
"""Added to the Gram matrix of chosen atoms, whose diagonal is 1: two of them may be alike."""


class MatchingPursuit(Value, tag_field="kind", tag="matching_pursuit"):
    """k steps: the atom nearest to what is left speaks as loudly as it reaches, and its part is taken off.

    Mallat & Zhang 1993; as an encoder Costa et al. 2025, arXiv 2506.03093. Codes are not negative.
    """

    k: Annotated[int, Meta(ge=1)] = 32
    """Features per row, at most."""

    def start(self, width: int) -> Own:
        """Nothing of its own."""
        return Own()

    def encode(self, hears: Hears, own: State, training: bool) -> Codes:
        """Greedy codes of the rows, with gradients through every step."""
        left_BD, atoms_FD = hears.rows_BD, unit_rows(hears.W_FD)
        chosen: list[Tensor] = []
        values: list[Tensor] = []
        for _ in range(min(self.k, len(atoms_FD))):
            chosen.append(_next(left_BD, atoms_FD, chosen))
            atom_BD = atoms_FD[chosen[-1]]
            values.append((left_BD * atom_BD).sum(1).relu())
            left_BD = left_BD - values[-1][:, None] * atom_BD
        return _codes(torch.stack(values, 1), torch.stack(chosen, 1), hears.W_FD)

    def penalty(self, forward: Forward, own: State) -> Tensor | None:
        """None: k bounds the codes."""
        return None


class OrthogonalPursuit(Value, tag_field="kind", tag="orthogonal_pursuit"):
    """As matching pursuit, but all chosen features are fitted again after every choice (Pati et al. 1993).

    Least squares; at the end a feature whose code would be negative is dropped and the rest are fitted again.
    """

    k: Annotated[int, Meta(ge=1)] = 32
    """Features per row, at most."""

    def start(self, width: int) -> Own:
        """Nothing of its own."""
        return Own()

    def encode(self, hears: Hears, own: State, training: bool) -> Codes:
        """The choice without gradients, the fit on it with them."""
        atoms_FD = unit_rows(hears.W_FD)
        with torch.autocast(atoms_FD.device.type, enabled=False):  # the equations want full precision
            with torch.no_grad():
                chosen_BK, kept_BK = _support(hears.x_BD, atoms_FD, min(self.k, len(atoms_FD)))
            values_BK = _fit(hears.rows_BD, atoms_FD[chosen_BK], kept_BK)
        return _codes(values_BK.relu(), chosen_BK, hears.W_FD)

    def penalty(self, forward: Forward, own: State) -> Tensor | None:
        """None: k bounds the codes."""
        return None


def _next(left_BD: Tensor, atoms_FD: Tensor, chosen: list[Tensor]) -> Tensor:
    """The atom nearest to what is left of each row, of those not chosen yet."""
    with torch.no_grad():
        scores_BF = left_BD @ atoms_FD.T
        if chosen:
            scores_BF.scatter_(1, torch.stack(chosen, 1), -torch.inf)
        return scores_BF.argmax(1)


def _support(x_BD: Tensor, atoms_FD: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The chosen features, and which of them stay once all codes are positive."""
    left_BD, chosen = x_BD, list[Tensor]()
    for _ in range(k):
        chosen.append(_next(left_BD, atoms_FD, chosen))
        picked_BKD = atoms_FD[torch.stack(chosen, 1)]
        values_BK = _fit(x_BD, picked_BKD, torch.ones_like(picked_BKD[..., 0], dtype=torch.bool))
        left_BD = x_BD - torch.einsum("bk,bkd->bd", values_BK, picked_BKD)
    kept_BK = torch.ones_like(values_BK, dtype=torch.bool)
    while bool(((values_BK < 0) & kept_BK).any()):
        kept_BK = kept_BK & (values_BK >= 0)
        values_BK = _fit(x_BD, picked_BKD, kept_BK)
    return torch.stack(chosen, 1), kept_BK


def _fit(x_BD: Tensor, atoms_BKD: Tensor, kept_BK: Tensor) -> Tensor:
    """Least squares of each row by its own kept atoms; the others get 0."""
    atoms_BKD = atoms_BKD * kept_BK[..., None]
    eye_KK = torch.eye(atoms_BKD.shape[1], dtype=x_BD.dtype, device=x_BD.device)
    gram_BKK = atoms_BKD @ atoms_BKD.mT + _RIDGE * eye_KK + torch.diag_embed((~kept_BK).to(x_BD.dtype))
    return torch.linalg.solve(gram_BKK, torch.einsum("bkd,bd->bk", atoms_BKD, x_BD))


def _codes(values_BK: Tensor, chosen_BK: Tensor, W_FD: Tensor) -> Sparse:
    """Codes for atoms of any length, features ascending."""
    features_BK, order_BK = chosen_BK.sort(dim=1)
    lengths_F = W_FD.norm(dim=1).clamp_min(torch.finfo(W_FD.dtype).tiny)
    return Sparse.even(values_BK.gather(1, order_BK) / lengths_F[features_BK], features_BK)
