"""Atoms that are mixtures of points: a few points each, with weights that are not negative or that sum to 1.

P points, F atoms, M points of one atom, D dimensions.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from jobs.core.linalg import blocks
from jobs.factors.solve import Own, Project, simplex, solve

_STEPS = 300
"""Most steps of fitting an atom's weights after it was given another point."""
_DRAWN_AGAIN = 10
"""Points of FurthestSum that are chosen again once all are there (Moerup & Hansen 2012)."""


@dataclass(frozen=True)
class Mixtures:
    """W and what it weighs: atom f is sum_m weights_fm points[support_fm]."""

    points_PD: Tensor
    support_FM: Tensor
    """Numbers of points; where the weight is 0 the place is free."""
    weights_FM: Tensor
    project: Project
    """What weights may be."""

    @classmethod
    def of(cls, points_PD: Tensor, chosen_F: Tensor, support: int, project: Project) -> "Mixtures":
        """Atom f is point `chosen_F[f]`."""
        weights_FM = torch.zeros(len(chosen_F), support, dtype=torch.float64, device=points_PD.device)
        weights_FM[:, 0] = 1
        return cls(points_PD, chosen_F[:, None].repeat(1, support), weights_FM, project)

    def atoms(self) -> Tensor:
        """[F, D]."""
        return self._mixed(self.support_FM, self.weights_FM)

    def at(self, atoms: Tensor, points: Tensor) -> "Mixtures":
        """Some atoms are points from now on."""
        support_FM, weights_FM = self.support_FM.clone(), self.weights_FM.clone()
        support_FM[atoms], weights_FM[atoms] = points[:, None], 0.0
        weights_FM[atoms, 0] = 1
        return replace(self, support_FM=support_FM, weights_FM=weights_FM)

    def scaled(self) -> "Mixtures":
        """The same directions with weights that sum to 1: in the hull of the points."""
        sums_F1 = self.weights_FM.sum(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        return replace(self, weights_FM=self.weights_FM / sums_F1)

    def towards(self, targets_FD: Tensor) -> "Mixtures":
        """Every atom nearer to its target, or where it was.

        An atom gets the point that would pull it there most (Wolfe 1976), in a free place, and its weights are fitted
        again. With all places taken only the weights are fitted.
        """
        support_FM, weights_FM = self._with_best(targets_FD)
        near_FM = weights_FM.clone()
        centre_D = self.points_PD.mean(0) if self.project is simplex else torch.zeros_like(self.points_PD[0])
        for part in blocks(len(support_FM), 8 * support_FM.shape[1] * self.points_PD.shape[1]):
            # weights that sum to 1 let points and targets move together: shorter points, longer steps
            problem = Own.of(targets_FD[part] - centre_D, self.points_PD[support_FM[part]] - centre_D)
            near_FM[part] = solve(problem, weights_FM[part], self.project, _STEPS)
        away_F, nearer_F = ((self._mixed(support_FM, one) - targets_FD).norm(dim=1) for one in (weights_FM, near_FM))
        better_F1 = (nearer_F < away_F)[:, None]
        return replace(self, support_FM=support_FM, weights_FM=torch.where(better_F1, near_FM, weights_FM))

    def _with_best(self, targets_FD: Tensor) -> tuple[Tensor, Tensor]:
        """Support and weights, the latter as they are, with one more point in the support."""
        away_FD = self.atoms() - targets_FD
        best_F = torch.empty_like(self.support_FM[:, 0])
        for part in blocks(len(away_FD), 4 * len(self.points_PD)):
            best_F[part] = (away_FD[part] @ self.points_PD.T).argmin(1)
        least_F, place_F = self.weights_FM.min(1)
        known_F = ((self.support_FM == best_F[:, None]) & (self.weights_FM > 0)).any(1)
        at = ((least_F <= 0) & ~known_F).nonzero().squeeze(1)
        support_FM = self.support_FM.clone()
        support_FM[at, place_F[at]] = best_F[at]
        return support_FM, self.weights_FM

    def _mixed(self, support_FM: Tensor, weights_FM: Tensor) -> Tensor:
        return torch.cat(
            [
                torch.einsum("fm,fmd->fd", weights_FM[part], self.points_PD[support_FM[part]].double())
                for part in blocks(len(support_FM), 8 * support_FM.shape[1] * self.points_PD.shape[1])
            ]
        ).to(self.points_PD)


def furthest_sum(x_ND: Tensor, n: int, seed: int) -> Tensor:
    """Numbers of n rows, each the one of largest summed distance to those before it (Moerup & Hansen 2012)."""
    random = torch.Generator().manual_seed(seed)
    chosen = [int(torch.randint(len(x_ND), (1,), generator=random))]
    sums_N = torch.zeros(len(x_ND), dtype=torch.float64, device=x_ND.device)
    taken_N = torch.zeros(len(x_ND), dtype=torch.bool, device=x_ND.device)

    def distances(row: int) -> Tensor:
        return (x_ND - x_ND[row]).norm(dim=1).double()

    def add(row: int) -> None:
        chosen.append(row)
        taken_N[row] = True
        sums_N.add_(distances(row))

    add(chosen.pop())
    for _ in range(n - 1 + min(n, _DRAWN_AGAIN)):
        if len(chosen) == n:
            first = chosen.pop(0)
            taken_N[first] = False
            sums_N.sub_(distances(first))
        add(int(sums_N.masked_fill(taken_N, -torch.inf).argmax()))
    return torch.tensor(chosen, device=x_ND.device)
