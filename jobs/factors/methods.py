"""Methods: what makes a dictionary of rows. Each is one class, here or in `library`, and one place in the union.

N rows of the fit, F features (`width`), D dimensions, P points.
"""

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor

from jobs.core.linalg import unit_rows
from jobs.factors.alternate import Free, Mixed, alternate
from jobs.factors.codings import NonNegative, Shares
from jobs.factors.fitted import Fitted, Mixture
from jobs.factors.library import Count, Ica, KMeans, Nmf, Pca, centres, require_rows
from jobs.factors.mixtures import Mixtures, furthest_sum
from jobs.factors.solve import orthant, simplex
from jobs.sae.dictionaries import random_atoms
from storage.value import Value

Tolerance = Annotated[float, Meta(ge=0)]


class SemiNmf(Value, tag_field="kind", tag="semi_nmf"):
    """Non-negative codes of atoms of any sign (Ding, Li & Jordan 2010), by alternating least squares from k-means."""

    keep: Count | None = None
    """Features per row, in the fit too, by orthogonal matching pursuit; none means all that are positive."""
    sweeps: Count = 200
    """Sweeps, at most."""
    tolerance: Tolerance = 1e-5
    """Share of the variance that a sweep must explain anew, or it is the last."""

    def coding(self) -> NonNegative:
        """Non-negative least squares."""
        return NonNegative(self.keep)

    def fit(self, x_ND: Tensor, width: int, seed: int) -> Fitted:
        """Unit atoms."""
        _, start_FD = centres(x_ND, width, seed, "semi_nmf")
        atoms, errors = alternate(x_ND, Free(start_FD), self.coding(), self.sweeps, self.tolerance)
        return Fitted(unit_rows(atoms.atoms()), self.coding(), start_FD=start_FD, errors=errors)


class ConvexNmf(Value, tag_field="kind", tag="convex_nmf"):
    """As semi-NMF, with atoms D = W X, W >= 0 (Ding, Li & Jordan 2010); rows of W sum to 1: the rows' convex hull.

    That they sum to 1 costs nothing, for codes have any length: atoms are fitted in the cone of the rows, then scaled.
    """

    keep: Count | None = None
    """Features per row, in the fit too, by orthogonal matching pursuit; none means all that are positive."""
    support: Count = 32
    """Rows, and k-means centres of rows, that one atom is made of, at most."""
    sweeps: Count = 200
    """Sweeps, at most."""
    tolerance: Tolerance = 1e-5
    """Share of the variance that a sweep must explain anew, or it is the last."""

    def coding(self) -> NonNegative:
        """Non-negative least squares."""
        return NonNegative(self.keep)

    def fit(self, x_ND: Tensor, width: int, seed: int) -> Fitted:
        """Atoms that start as k-means centres, which are mixtures of many rows, and keep them as points to mix."""
        _, start_FD = centres(x_ND, width, seed, "convex_nmf")
        points_PD = torch.cat([x_ND, start_FD])
        chosen_F = torch.arange(len(x_ND), len(points_PD), device=x_ND.device)
        start = Mixed(Mixtures.of(points_PD, chosen_F, self.support, orthant))
        atoms, errors = alternate(x_ND, start, self.coding(), self.sweeps, self.tolerance)
        mixtures = atoms.mixtures.scaled()
        mixture = Mixture(mixtures.support_FM, mixtures.weights_FM)
        return Fitted(mixtures.atoms(), self.coding(), start_FD=start_FD, errors=errors, mixture=mixture)


class Archetypes(Value, tag_field="kind", tag="archetypes"):
    """Archetypal analysis (Cutler & Breiman 1994): rows are mixtures of atoms, and atoms mixtures of rows."""

    keep: Count | None = None
    """Features per row, in the fit too: the largest shares, fitted again with sum 1; none means all."""
    support: Count = 32
    """Rows that one atom is made of, at most."""
    sweeps: Count = 200
    """Sweeps, at most."""
    tolerance: Tolerance = 1e-5
    """Share of the variance that a sweep must explain anew, or it is the last."""

    def coding(self) -> Shares:
        """Shares that sum to 1: a row outside the hull becomes the nearest point of it."""
        return Shares(self.keep)

    def fit(self, x_ND: Tensor, width: int, seed: int) -> Fitted:
        """From rows that are far from each other (FurthestSum)."""
        require_rows(width, x_ND, "archetypes")
        mean_D = x_ND.mean(0)  # all shares sum to 1: everything may move together, and the fit is quicker about 0
        x_ND = x_ND - mean_D
        start = Mixed(Mixtures.of(x_ND, furthest_sum(x_ND, width, seed), self.support, simplex))
        atoms, errors = alternate(x_ND, start, self.coding(), self.sweeps, self.tolerance)
        mixture = Mixture(atoms.mixtures.support_FM, atoms.mixtures.weights_FM)
        found_FD, start_FD = atoms.atoms() + mean_D, start.atoms() + mean_D
        return Fitted(found_FD, self.coding(), start_FD=start_FD, errors=errors, mixture=mixture)


class Random(Value, tag_field="kind", tag="random"):
    """Unit atoms in uniformly random directions, encoded as those of semi-NMF: what no fit at all is worth."""

    keep: Count | None = None
    """Features per row, by orthogonal matching pursuit; none means all that are positive."""

    def coding(self) -> NonNegative:
        """Non-negative least squares."""
        return NonNegative(self.keep)

    def fit(self, x_ND: Tensor, width: int, seed: int) -> Fitted:
        """Looks at no row."""
        atoms_FD = random_atoms(width, x_ND.shape[1], seed).to(x_ND)
        return Fitted(atoms_FD, self.coding(), start_FD=atoms_FD)


Method = Pca | Ica | KMeans | Nmf | SemiNmf | ConvexNmf | Archetypes | Random
