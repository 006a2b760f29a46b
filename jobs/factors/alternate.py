"""Alternating least squares: codes for the atoms, atoms for the codes, and the error never rises.

N rows, F atoms, D dimensions.
"""

from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

import torch
from torch import Tensor

from jobs.factors.codings import NonNegative, Shares
from jobs.factors.mixtures import Mixtures

_PASSES = 3
"""Times that mixtures go towards what suits the codes of one sweep."""
_RIDGE = 1e-6
"""Pull of free atoms to where they are, beside the mean squared code."""


class Atoms(Protocol):
    """Atoms that can be fitted to codes."""

    def atoms(self) -> Tensor:
        """[F, D]."""
        ...

    def nearer(self, z_NF: Tensor, x_ND: Tensor) -> Self:
        """Atoms of no larger error with these codes."""
        ...

    def revived(self, dead: Tensor, rows: Tensor, x_ND: Tensor, left_ND: Tensor) -> Self:
        """Atoms that no row uses, made of the rows that are rebuilt worst; `left_ND` is what is left of each."""
        ...


Kind = TypeVar("Kind", bound=Atoms)


@dataclass(frozen=True)
class Free:
    """Atoms of any kind."""

    atoms_FD: Tensor

    def atoms(self) -> Tensor:
        """[F, D]."""
        return self.atoms_FD

    def nearer(self, z_NF: Tensor, x_ND: Tensor) -> "Free":
        """Least squares; a slight pull to where an atom is lets none run away and no error rise."""
        gram_FF, heard_FD = _products(z_NF, x_ND)
        pull = _RIDGE * gram_FF.diagonal().mean().clamp_min(torch.finfo(torch.float32).tiny)
        gram_FF.diagonal().add_(pull)
        factor_FF = torch.linalg.cholesky(gram_FF)
        return Free(torch.cholesky_solve(heard_FD + pull * self.atoms_FD.double(), factor_FF).to(x_ND))

    def revived(self, dead: Tensor, rows: Tensor, x_ND: Tensor, left_ND: Tensor) -> "Free":
        """What is left of the rows."""
        atoms_FD = self.atoms_FD.clone()
        atoms_FD[dead] = left_ND[rows]
        return Free(atoms_FD)


@dataclass(frozen=True)
class Mixed:
    """Atoms that are mixtures of points, the first of which are the rows."""

    mixtures: Mixtures

    def atoms(self) -> Tensor:
        """[F, D]."""
        return self.mixtures.atoms()

    def nearer(self, z_NF: Tensor, x_ND: Tensor) -> "Mixed":
        """All atoms at once go towards what would suit the codes.

        With G = Z^T Z, which has no negative entry, the error as a function of the atoms lies below one whose curvature
        is the row sums of G, and touches it here: that one's best target of each atom does not depend on the others'.
        (Going on as long as the error falls took up to a third fewer sweeps on digits, but 1.5 to 2 times as long.)
        """
        gram_FF, heard_FD = _products(z_NF, x_ND)
        curve_F1 = gram_FF.sum(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        mixtures = self.mixtures
        for _ in range(_PASSES):
            atoms_FD = mixtures.atoms().double()
            targets_FD = atoms_FD + (heard_FD - gram_FF @ atoms_FD) / curve_F1
            mixtures = mixtures.towards(targets_FD.to(x_ND))
        return Mixed(mixtures)

    def revived(self, dead: Tensor, rows: Tensor, x_ND: Tensor, left_ND: Tensor) -> "Mixed":
        """The rows themselves."""
        return Mixed(self.mixtures.at(dead, rows))


def _products(z_NF: Tensor, x_ND: Tensor) -> tuple[Tensor, Tensor]:
    """Z^T Z and Z^T X, float64."""
    return (z_NF.T @ z_NF).double(), (z_NF.T @ x_ND).double()


def alternate(
    x_ND: Tensor, start: Kind, coding: NonNegative | Shares, sweeps: int, tolerance: float
) -> tuple[Kind, tuple[float, ...]]:
    """Atoms after so many sweeps, or once one takes less than `tolerance` off the error; and all errors.

    An error is |X - Z A|^2 over |X - mean|^2, and the first is that of the start. Codes are those that the coding
    gives, with no more of them in a row than it keeps.
    """
    spread = float((x_ND - x_ND.mean(0)).square().sum(dtype=torch.float64))
    atoms, atoms_FD = start, start.atoms()
    z_NF = coding.codes(x_ND, atoms_FD, atoms_FD)
    left_ND = x_ND - z_NF @ atoms_FD
    errors = [_square(left_ND) / spread]
    for _ in range(sweeps):
        atoms = _revive(atoms, z_NF, x_ND, left_ND).nearer(z_NF, x_ND)
        z_NF, left_ND = _better(x_ND, atoms.atoms(), z_NF, coding)
        errors.append(_square(left_ND) / spread)
        if errors[-2] - errors[-1] <= tolerance:
            break
    return atoms, tuple(errors)


def _square(left_ND: Tensor) -> float:
    return float(left_ND.square().sum(dtype=torch.float64))


def _better(x_ND: Tensor, atoms_FD: Tensor, z_NF: Tensor, coding: NonNegative | Shares) -> tuple[Tensor, Tensor]:
    """Codes that suit the atoms better, row by row, and what they leave of the rows."""
    new_NF = coding.nearer(x_ND, atoms_FD, z_NF)
    old_ND, new_ND = x_ND - z_NF @ atoms_FD, x_ND - new_NF @ atoms_FD
    better_N1 = (new_ND.norm(dim=1) < old_ND.norm(dim=1))[:, None]
    return torch.where(better_N1, new_NF, z_NF), torch.where(better_N1, new_ND, old_ND)


def _revive(atoms: Kind, z_NF: Tensor, x_ND: Tensor, left_ND: Tensor) -> Kind:
    dead = (~z_NF.any(0)).nonzero().squeeze(1)
    if not len(dead):
        return atoms
    rows = left_ND.norm(dim=1).topk(min(len(dead), len(x_ND))).indices
    return atoms.revived(dead[: len(rows)], rows, x_ND, left_ND)
