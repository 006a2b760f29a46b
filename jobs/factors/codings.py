"""Codings: how rows become codes in a dictionary that no longer changes. Each is one class here.

B rows of a batch, F features, D dimensions.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from jobs.core.linalg import unit_rows
from jobs.factors.solve import Project, fitted, free, orthant, pursued, refitted, simplex
from jobs.sae.picking import largest

_SWEEP = 20
"""Steps for the codes of one sweep of a fit."""
_STEPS = 2000
"""Most steps of a least-squares fit: a row that needs more gets the last of these."""


@dataclass(frozen=True)
class Linear:
    """z = x H^T; with `keep`, orthogonal matching pursuit. Codes have signs."""

    keep: int | None
    signed = True

    def codes(self, x_BD: Tensor, hears_FD: Tensor, atoms_FD: Tensor) -> Tensor:
        """[B, F] of rows less the offset."""
        if self.keep is None:
            return x_BD @ hears_FD.T
        return _pursued(x_BD, atoms_FD, free, self.keep)


@dataclass(frozen=True)
class NonNegative:
    """Non-negative least squares; with `keep`, orthogonal matching pursuit with codes that are not negative."""

    keep: int | None
    signed = False

    def codes(self, x_BD: Tensor, hears_FD: Tensor, atoms_FD: Tensor) -> Tensor:
        """[B, F] of rows less the offset."""
        if self.keep is not None:
            return _pursued(x_BD, atoms_FD, orthant, self.keep)
        units_FD = unit_rows(atoms_FD)  # a step suits all atoms where they are as long as each other
        z_BF = fitted(x_BD, units_FD, torch.zeros_like(x_BD @ units_FD.T), orthant, _STEPS)
        return z_BF / _lengths(atoms_FD)

    def nearer(self, x_BD: Tensor, atoms_FD: Tensor, z_BF: Tensor) -> Tensor:
        """Codes from `z_BF` on, in the course of a fit."""
        if self.keep is not None:
            return self.codes(x_BD, atoms_FD, atoms_FD)
        return fitted(x_BD, atoms_FD, z_BF, orthant, _SWEEP)


@dataclass(frozen=True)
class Shares:
    """The nearest point of the atoms' convex hull: codes are not negative and sum to 1.

    With `keep`, the nearest point of the hull of the atoms that had the largest shares.
    """

    keep: int | None
    signed = False

    def codes(self, x_BD: Tensor, hears_FD: Tensor, atoms_FD: Tensor) -> Tensor:
        """[B, F] of rows less the offset."""
        mean_D = atoms_FD.mean(0)  # shares sum to 1, so rows and atoms may move together: shorter atoms, longer steps
        x_BD, atoms_FD = x_BD - mean_D, atoms_FD - mean_D
        even_BF = torch.full_like(x_BD @ atoms_FD.T, 1 / len(atoms_FD))
        z_BF = fitted(x_BD, atoms_FD, even_BF, simplex, _STEPS)
        if self.keep is None or self.keep >= len(atoms_FD):
            return z_BF
        kept_BK = largest(z_BF, self.keep)
        z_BK = refitted(atoms_FD @ atoms_FD.T, x_BD @ atoms_FD.T, kept_BK, simplex, _STEPS)
        return torch.zeros_like(z_BF).scatter(1, kept_BK, z_BK)

    def nearer(self, x_BD: Tensor, atoms_FD: Tensor, z_BF: Tensor) -> Tensor:
        """Codes from `z_BF` on, in the course of a fit."""
        if self.keep is not None:
            return self.codes(x_BD, atoms_FD, atoms_FD)
        return fitted(x_BD, atoms_FD, z_BF, simplex, _SWEEP)


@dataclass(frozen=True)
class OneHot:
    """1 for the nearest atom, 0 for all others."""

    signed = False

    def codes(self, x_BD: Tensor, hears_FD: Tensor, atoms_FD: Tensor) -> Tensor:
        """[B, F] of rows less the offset."""
        nearness_BF = torch.addmm(-atoms_FD.square().sum(1) / 2, x_BD, atoms_FD.T)
        return torch.zeros_like(nearness_BF).scatter_(1, nearness_BF.argmax(1, keepdim=True), 1)


Coding = Linear | NonNegative | Shares | OneHot


def _pursued(x_BD: Tensor, atoms_FD: Tensor, project: Project, keep: int) -> Tensor:
    return pursued(x_BD, unit_rows(atoms_FD), project, min(keep, len(atoms_FD)), _STEPS) / _lengths(atoms_FD)


def _lengths(atoms_FD: Tensor) -> Tensor:
    return atoms_FD.norm(dim=1).clamp_min(torch.finfo(atoms_FD.dtype).tiny)
