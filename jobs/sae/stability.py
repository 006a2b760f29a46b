"""Do runs find the same atoms, and did training make them so? Assignment of atoms, with the starts beside the ends.

F atoms, G atoms of another dictionary, M matched pairs, D dimensions, N points.

Stability is the mean cosine over the best one-to-one assignment of atoms (Fel et al. 2025, 2502.12892, with the mean
where its library has a sum of distances). Averaged over the pairs of runs it is the PW-MCC of Song et al. 2025
(2505.20254) as their code computes it: plain cosines, unit atoms. It says little alone: runs that start from the same
atoms end alike without having learnt to (2606.02061), and atoms of rows that share a large mean look alike whatever
they are. So the value of the starts and of random points stands beside it.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from jobs.core.linalg import centred, unit_rows
from jobs.sae.dictionaries import random_atoms
from storage.value import Value

INFLATED = 0.85
"""Stability of random points above which cosines say that there is a mean direction, and little else."""
ALIKE = 0.99
"""Stability at the start from which on runs count as started from the same atoms."""


class Match(NamedTuple):
    """The best one-to-one assignment between two dictionaries; the larger one has atoms left over."""

    first_M: np.ndarray
    second_M: np.ndarray
    cosine_M: np.ndarray
    """Of each pair, absolute where signs are free."""


def match(atoms_FD: Tensor, other_GD: Tensor, signed: bool = False) -> Match:
    """The assignment of largest mean cosine; `signed` lets an atom stand for its negative, which codes >= 0 cannot.

    Exact at every size, by scipy's linear_sum_assignment. Two random dictionaries, the slowest case, take it 2 s at
    4,096 atoms, 7 s at 8,192, and 44 s and 5 GB at 16,384: it works on two float64 copies of the F x G cosines.
    """
    cosine_FG = (unit_rows(atoms_FD.detach().float()) @ unit_rows(other_GD.detach().float()).T).cpu().numpy()
    if signed:
        np.abs(cosine_FG, out=cosine_FG)
    first_M, second_M = linear_sum_assignment(cosine_FG, maximize=True)
    return Match(first_M, second_M, cosine_FG[first_M, second_M])


def mcc(atoms_FD: Tensor, truth_GD: Tensor, signed: bool = False) -> float:
    """Mean cosine of planted atoms with those matched to them; one that finds no partner counts 0."""
    return float(match(truth_GD, atoms_FD, signed).cosine_M.sum(dtype=np.float64)) / len(truth_GD)


def agreement(dictionaries: Sequence[Tensor], signed: bool = False) -> float:
    """Mean cosine of matched atoms, averaged over the pairs of runs."""
    if len(dictionaries) < 2:
        raise ValueError(f"stability compares runs: at least 2 dictionaries are needed, {len(dictionaries)} given")
    pairs = combinations(dictionaries, 2)
    return float(np.mean([match(one, other, signed).cosine_M.mean(dtype=np.float64) for one, other in pairs]))


def without_mean(atoms_FD: Tensor) -> Tensor:
    """Unit atoms about their mean: what cosines say once the direction that all share is gone."""
    return centred(unit_rows(atoms_FD))


def without_direction(atoms_FD: Tensor, direction_D: Tensor) -> Tensor:
    """Atoms with their part along `direction_D` (the mean of the rows, say) taken off."""
    along_D = unit_rows(direction_D[None])[0].to(atoms_FD)
    return atoms_FD - (atoms_FD @ along_D)[:, None] * along_D


class Stability(Value):
    """Agreement of runs at their end, with what it was before training and what it is for dictionaries of no merit."""

    final: float
    """Mean cosine of matched atoms after training, over the pairs of runs."""
    initial: float
    """The same before the first step."""
    null: float
    """The same for two dictionaries of that size in uniformly random directions."""
    drawn: float | None
    """The same for two dictionaries of points drawn at random, none in both; none if no points were given."""
    signed: bool
    """Whether an atom may stand for its negative."""
    runs: int
    """How many runs were compared."""

    @property
    def stabilisation(self) -> float:
        """final - initial: what training added."""
        return self.final - self.initial

    @property
    def inflated(self) -> bool:
        """Whether points drawn at random agree so well already that the mean direction explains the cosines."""
        return self.drawn is not None and self.drawn > INFLATED

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a reader must know before believing the number, a sentence each."""
        found = []
        if self.inflated:
            found.append(
                f"Cosine inflated by mean direction: dictionaries of random points agree to {self.drawn:.3f} already "
                f"(more than {INFLATED}); compare after centring."
            )
        if self.initial >= ALIKE:
            found.append(
                f"The runs' starts agree already (by {self.initial:.3f}, from which training moved them by "
                f"{self.stabilisation:+.3f}): their agreement says little of training."
            )
        return tuple(found)


def stability(
    final: Sequence[Tensor],
    initial: Sequence[Tensor],
    points_ND: Tensor | None = None,
    *,
    signed: bool = False,
    seed: int = 0,
) -> Stability:
    """Of runs with these atoms at their end and their start, in the same order.

    `points_ND` are rows or candidates of one run. For the centred figure hand in everything through `without_mean`
    or `without_direction`.
    """
    width, d = final[0].shape
    return Stability(
        final=agreement(final, signed),
        initial=agreement(initial, signed),
        null=agreement([random_atoms(width, d, seed), random_atoms(width, d, seed + 1)], signed),
        drawn=None if points_ND is None else agreement(_drawn(points_ND, width, seed), signed),
        signed=signed,
        runs=len(final),
    )


def _drawn(points_ND: Tensor, width: int, seed: int) -> tuple[Tensor, Tensor]:
    """Two lots of points, none in both, each of `width` or as many as there are."""
    order_N = torch.randperm(len(points_ND), generator=torch.Generator().manual_seed(seed)).to(points_ND.device)
    n = min(width, len(points_ND) // 2)
    return points_ND[order_N[:n]], points_ND[order_N[n : 2 * n]]
