"""Dictionaries: what the atoms (rows of the decoder) may be. Each is one class here and one place in the union.

F features, E dimensions of a target, N candidates, M candidates that one atom is made of.
"""

from typing import Annotated, Literal

import torch
from msgspec import Meta
from torch import Tensor

from jobs.core.linalg import unit_rows
from jobs.core.neighbours import nearest
from jobs.sae.candidates import Candidates, KMeans
from jobs.sae.codes import Sparse
from jobs.sae.parts import Own, State
from storage.value import Value

_TINY = torch.finfo(torch.float32).tiny


class Free(Value, tag_field="kind", tag="free"):
    """Atoms of any length."""

    biased = True
    """Whether the decoder adds a bias of its own."""
    kept = ()
    """Names of its own tensors that training does not move."""
    candidates: Candidates | None = None
    """What atoms start from; none means random directions."""

    def start(self, atoms_FE: Tensor, points_NE: Tensor | None, seed: int) -> Own:
        """`atoms_FE`, or the first candidates."""
        return Own(trained={"W_dec": atoms_FE if points_NE is None else points_NE[: len(atoms_FE)].clone()})

    def atoms(self, own: State) -> Tensor:
        """[F, E]."""
        return own["W_dec"]

    def project_gradient_(self, own: State) -> None:
        """Nothing to drop."""

    def project_(self, own: State) -> None:
        """Nothing to restore."""


class UnitNorm(Value, tag_field="kind", tag="unit_norm"):
    """Every atom has length 1, so that a code is a length in the space of the hidden states."""

    biased, kept = True, ()
    candidates: Candidates | None = None
    """What atoms start along; none means random directions."""

    def start(self, atoms_FE: Tensor, points_NE: Tensor | None, seed: int) -> Own:
        """`atoms_FE`, or the directions of the first candidates."""
        return Own(trained={"W_dec": unit_rows(atoms_FE if points_NE is None else points_NE[: len(atoms_FE)])})

    def atoms(self, own: State) -> Tensor:
        """[F, E]."""
        return own["W_dec"]

    def project_gradient_(self, own: State) -> None:
        """Drop the part of the gradient along each atom: it would only be undone by `project_`."""
        W_FE, grad_FE = own["W_dec"], own["W_dec"].grad
        assert grad_FE is not None
        grad_FE -= (grad_FE * W_FE).sum(1, keepdim=True) * W_FE

    def project_(self, own: State) -> None:
        """Scale every atom back to length 1."""
        own["W_dec"].copy_(unit_rows(own["W_dec"]))


class Archetypal(Value, tag_field="kind", tag="archetypal"):
    """Atoms in the convex hull of candidates, which do not move, or within `delta` of it (Fel et al. 2025, 2502.12892).

    D = exp(s) (W C + L): rows of W are not negative and sum to 1, rows of L are no longer than delta, s is one number.
    The decoder has no bias, so that with delta 0 whatever codes rebuild lies in the cone of the candidates.
    """

    biased, kept = False, ("points", "nearest")
    candidates: Candidates = KMeans()
    """C: what atoms are made of."""
    delta: Annotated[float, Meta(ge=0)] = 0.0
    """How far an atom may leave the hull; 0 is the A-SAE, more the RA-SAE."""
    start_from: Literal["identity", "random"] = "identity"
    """W at the start: atom i is candidate i, or a random mixture of all."""
    support: Annotated[int, Meta(ge=1)] | None = None
    """Candidates that one atom may be made of: the nearest to the one that it starts at; none means all."""

    def start(self, atoms_FE: Tensor, points_NE: Tensor | None, seed: int) -> Own:
        """W, L and s, and the candidates; `atoms_FE` gives the shape alone."""
        assert points_NE is not None
        weights, mine = self._weights(len(atoms_FE), points_NE, torch.Generator().manual_seed(seed))
        trained = {"W": weights, "log_scale": torch.zeros(())}
        if self.delta:
            trained["relaxation"] = torch.zeros_like(atoms_FE)
        return Own(trained=trained, kept={"points": points_NE} | ({} if mine is None else {"nearest": mine}))

    def atoms(self, own: State) -> Tensor:
        """[F, E]."""
        W, points_NE = own["W"], own["points"]
        mixed_FE = Sparse.even(W, own["nearest"]).mix(points_NE) if "nearest" in own else W @ points_NE
        return own["log_scale"].exp() * (mixed_FE + own["relaxation"] if "relaxation" in own else mixed_FE)

    def project_gradient_(self, own: State) -> None:
        """Nothing to drop: gradients flow through W as it stands."""

    def project_(self, own: State) -> None:
        """Rows of W back to weights that sum to 1, rows of L to length delta; in float64, so that 1 is 1."""
        W = own["W"].double()
        sums = W.clamp_min(0).sum(1, keepdim=True)
        lost = (sums <= _TINY).squeeze(1)
        if bool(lost.any()):  # no positive weight is left: the largest becomes all of the atom
            W[lost] = torch.nn.functional.one_hot(W[lost].argmax(1), W.shape[1]).double()
            sums = W.clamp_min(0).sum(1, keepdim=True)
        own["W"].copy_(W.clamp_min(0) / sums)
        if "relaxation" in own:
            lengths = own["relaxation"].norm(dim=1, keepdim=True).clamp_min(_TINY)
            own["relaxation"].mul_((self.delta / lengths).clamp_max(1))

    def _weights(self, width: int, points_NE: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """W at the start, [F, N] or [F, M], and for the latter which candidates they weigh."""
        shape = width, len(points_NE) if self.support is None else self.support
        drawn = torch.rand(shape, generator=random)
        weights = drawn / drawn.sum(1, keepdim=True)
        if self.support is None:
            return (torch.eye(*shape) if self.start_from == "identity" else weights), None
        own_F = torch.arange(width)
        mine = own_F[:, None]
        if self.support > 1:
            mine = torch.cat([mine, nearest(points_NE, self.support - 1, own_F).indices_QK], dim=1)
        mine, order = mine.sort(dim=1)
        return ((order == 0).float() if self.start_from == "identity" else weights), mine


Dictionary = UnitNorm | Free | Archetypal


def random_atoms(width: int, d: int, seed: int) -> Tensor:
    """Unit atoms in uniformly random directions."""
    return unit_rows(torch.randn(width, d, generator=torch.Generator().manual_seed(seed)))
