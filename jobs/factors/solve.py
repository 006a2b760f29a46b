"""Codes of rows by least squares over a fixed dictionary: of any sign, not negative, or shares that sum to 1.

min_z |z A - x|^2 over a convex set, by the accelerated projected gradient (Beck & Teboulle 2009) with a restart of
every row whose momentum points uphill (O'Donoghue & Candes 2015). Each row goes its own way and leaves when it is done,
so its codes do not depend on the rows beside it, but for rounding.

B rows of a batch, R of them that are not done, F atoms, K atoms of a row's own, D dimensions.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from jobs.core.linalg import blocks
from jobs.sae.codes import Sparse
from jobs.sae.picking import largest

Project = Callable[[Tensor], Tensor]
"""The nearest point of the set of codes, row by row."""

_TOLERANCE = 1e-5
"""Length of a step beside that of the codes at which a row is done."""
_LOOKED_AT = 10
"""Steps after which rows are looked at, whether they are done."""
_ROUNDS = 8
"""Times that a pursuit chooses, at most."""
_COPIES = 8
"""Of the codes, that solving holds."""


def free(z_BF: Tensor) -> Tensor:
    """Codes of any sign."""
    return z_BF


def orthant(z_BF: Tensor) -> Tensor:
    """Codes that are not negative."""
    return z_BF.clamp_min(0)


def simplex(z_BF: Tensor) -> Tensor:
    """Codes that are not negative and sum to 1 in every row (Duchi et al. 2008)."""
    falling_BF = z_BF.double().sort(dim=1, descending=True).values
    counts_F = torch.arange(1, z_BF.shape[1] + 1, device=z_BF.device)
    excess_BF = (falling_BF.cumsum(1) - 1) / counts_F
    last_B1 = (falling_BF > excess_BF).sum(1, keepdim=True) - 1
    return (z_BF - excess_BF.gather(1, last_B1).to(z_BF)).clamp_min(0)


@dataclass(frozen=True)
class Shared:
    """Every row is rebuilt by the same atoms."""

    x_BD: Tensor
    atoms_FD: Tensor
    step: Tensor
    """1 / the largest eigenvalue of A A^T."""

    @classmethod
    def of(cls, x_BD: Tensor, atoms_FD: Tensor) -> "Shared":
        """The problem with its step, from whichever of A A^T and A^T A is smaller."""
        a = atoms_FD.double()
        square = a @ a.T if len(a) < a.shape[1] else a.T @ a
        return cls(x_BD, atoms_FD, _inverse(torch.linalg.eigvalsh(square)[-1]).to(atoms_FD))

    def slope(self, z_BF: Tensor) -> Tensor:
        """Half the gradient."""
        return (z_BF @ self.atoms_FD - self.x_BD) @ self.atoms_FD.T

    def at(self, rows_R: Tensor) -> "Shared":
        """Some of the rows."""
        return Shared(self.x_BD[rows_R], self.atoms_FD, self.step)


@dataclass(frozen=True)
class Own:
    """Every row is rebuilt by atoms of its own."""

    gram_BKK: Tensor
    """Products of its atoms with each other."""
    heard_BK: Tensor
    """Products of its atoms with the row."""

    @classmethod
    def of(cls, x_BD: Tensor, atoms_BKD: Tensor) -> "Own":
        """In float64: products of atoms square what sets them apart."""
        atoms_BKD = atoms_BKD.double()
        return cls(atoms_BKD @ atoms_BKD.mT, torch.einsum("bkd,bd->bk", atoms_BKD, x_BD.double()))

    @property
    def step(self) -> Tensor:
        """1 / a bound of the largest eigenvalue, by the row's largest sum of products."""
        return _inverse(self.gram_BKK.abs().sum(2).amax(1, keepdim=True))

    def slope(self, z_BK: Tensor) -> Tensor:
        """Half the gradient."""
        return torch.einsum("bk,bkj->bj", z_BK, self.gram_BKK) - self.heard_BK

    def at(self, rows_R: Tensor) -> "Own":
        """Some of the rows."""
        return Own(self.gram_BKK[rows_R], self.heard_BK[rows_R])


def _inverse(x: Tensor) -> Tensor:
    return 1 / x.clamp_min(torch.finfo(torch.float32).tiny)


def solve(problem: Shared | Own, z_BF: Tensor, project: Project, most: int) -> Tensor:
    """The best codes, from `z_BF` on, after `most` steps at most."""
    found_BF, rows_R = z_BF.clone(), torch.arange(len(z_BF), device=z_BF.device)
    z, ahead, t_R1 = z_BF, z_BF, torch.ones_like(z_BF[:, :1])
    step = problem.step
    for n in range(1, most + 1):
        new = project(ahead - step * problem.slope(ahead))
        uphill_R1 = ((ahead - new) * (new - z)).sum(1, keepdim=True) > 0
        t_R1 = t_R1.masked_fill(uphill_R1, 1)
        next_R1 = (1 + (1 + 4 * t_R1.square()).sqrt()) / 2
        moved_R = (new - ahead).norm(dim=1)
        ahead = new + (t_R1 - 1) / next_R1 * (new - z)
        z, t_R1 = new, next_R1
        if n % _LOOKED_AT and n < most:
            continue
        on_R = moved_R > _TOLERANCE * z.norm(dim=1)
        found_BF[rows_R] = z
        if not bool(on_R.any()):
            break
        z, ahead, t_R1, rows_R, problem = z[on_R], ahead[on_R], t_R1[on_R], rows_R[on_R], problem.at(on_R)
        step = problem.step
    return found_BF


def fitted(x_BD: Tensor, atoms_FD: Tensor, z_BF: Tensor, project: Project, most: int) -> Tensor:
    """Codes of rows, from `z_BF` on, a bounded number of rows at a time."""
    whole = Shared.of(x_BD, atoms_FD)
    parts = blocks(len(x_BD), 4 * _COPIES * len(atoms_FD))
    return torch.cat([solve(Shared(x_BD[part], atoms_FD, whole.step), z_BF[part], project, most) for part in parts])


def refitted(gram_FF: Tensor, heard_BF: Tensor, kept_BK: Tensor, project: Project, most: int) -> Tensor:
    """Codes [B, K] of each row in the atoms `kept_BK` alone; `heard_BF` are the products of atoms and rows."""
    found = []
    for part in blocks(len(kept_BK), 8 * _COPIES * kept_BK.shape[1] ** 2):
        mine_BK = kept_BK[part]
        own = Own(gram_FF[mine_BK[:, :, None], mine_BK[:, None]].double(), heard_BF[part].gather(1, mine_BK).double())
        found.append(solve(own, project(torch.zeros_like(own.heard_BK)), project, most).to(heard_BF))
    return torch.cat(found)


def pursued(x_BD: Tensor, units_FD: Tensor, project: Project, keep: int, most: int) -> Tensor:
    """Codes of `keep` features per row, each chosen for what those before it leave, all fitted again after a choice.

    Orthogonal matching pursuit over unit atoms, in a few rounds: features of one round are chosen together.
    """
    signed = project is free
    gram_FF, heard_BF = units_FD @ units_FD.T, x_BD @ units_FD.T
    kept_BK = torch.empty(len(x_BD), 0, dtype=torch.int64, device=x_BD.device)
    z_BK, scores_BF = x_BD[:, :0], heard_BF
    while kept_BK.shape[1] < keep:
        scores_BF = (scores_BF.abs() if signed else scores_BF).scatter(1, kept_BK, -torch.inf)
        size = min(-(-keep // _ROUNDS), keep - kept_BK.shape[1])
        kept_BK = torch.cat([kept_BK, largest(scores_BF, size)], 1)
        z_BK = refitted(gram_FF, heard_BF, kept_BK, project, most)
        scores_BF = (x_BD - Sparse.even(z_BK, kept_BK).mix(units_FD)) @ units_FD.T
    return x_BD.new_zeros(len(x_BD), len(units_FD)).scatter(1, kept_BK, z_BK)
