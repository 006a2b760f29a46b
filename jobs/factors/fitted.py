"""What a method finds: a dictionary in the space of normalised rows, and how new rows become codes in it.

N rows, B rows of a batch, F features, D dimensions, M rows that one atom is a mixture of.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from jobs.factors.codings import Coding


@dataclass(frozen=True)
class Mixture:
    """What atoms are made of: atom f is sum_m weights_fm x[rows_fm]."""

    rows_FM: Tensor
    """Places among the rows of the fit; past the last of these, place N + c is k-means centre c of them."""
    weights_FM: Tensor
    """float64; 0 where nothing is added."""


@dataclass(frozen=True)
class Fitted:
    """Atoms, and what it takes to encode rows by them; tensors are float32."""

    atoms_FD: Tensor
    coding: Coding
    offset_D: Tensor | None = None
    """Taken off rows before they are encoded, added to what codes rebuild; none means 0."""
    hears_FD: Tensor | None = None
    """What rows are multiplied with where that is not the atoms."""
    start_FD: Tensor | None = None
    """The atoms before the fit, where there were any."""
    errors: tuple[float, ...] = ()
    """|X - Z A|^2 over |X - mean|^2 of the fit's rows: of the start and after every sweep."""
    mixture: Mixture | None = None
    remarks: tuple[str, ...] = ()
    """What a reader must know of the fit, a sentence each."""

    @torch.no_grad()
    def encode(self, x_BD: Tensor) -> Tensor:
        """Codes [B, F] of normalised rows, seen or not."""
        hears_FD = self.atoms_FD if self.hears_FD is None else self.hears_FD
        return self.coding.codes(x_BD if self.offset_D is None else x_BD - self.offset_D, hears_FD, self.atoms_FD)

    def decode(self, z_BF: Tensor) -> Tensor:
        """Normalised rows [B, D]."""
        x_BD = z_BF @ self.atoms_FD
        return x_BD if self.offset_D is None else x_BD + self.offset_D
