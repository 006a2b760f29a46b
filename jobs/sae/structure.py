"""The shape of a dictionary: its ranks, its distance from the data, and which of its features fire together.

F features (atoms), G atoms of another dictionary, D dimensions, B rows of a batch, N candidates, U distinct counts,
R rows that are not zero, A pairs of features that fired together.

Definitions are those of Fel et al. 2025 (2502.12892), table 1. An atom of length zero has no direction: its cosine is
0 with everything, and it is left out of the mean that OOD is. `zero_atoms` names those, so that a report can.
"""

from typing import NamedTuple, assert_never

import numpy as np
import torch
from scipy.sparse import csr_array, vstack
from scipy.sparse.linalg import LinearOperator, eigsh
from scipy.stats import hypergeom
from torch import Tensor

from jobs.core.linalg import blocks, unit_rows
from jobs.sae.codes import Codes, Dense, Sparse

_HELD = 1 << 23
"""Products of two codes after which the rows held are counted, at least: bounds the memory of one sparse product."""
_FEW = 10
"""A row with fewer than 1 in this many features active is multiplied as sparse, which is faster from there on."""


class Ranks(NamedTuple):
    """How many directions the atoms use; both are the number of dimensions for orthonormal atoms and 1 for one line."""

    stable: float
    """|D|_F^2 / |D|_2^2: a direction that all atoms share drives it to 1."""
    effective: float
    """exp of the entropy of the singular values (not of their squares) over their sum."""


def ranks(atoms_FD: Tensor) -> Ranks:
    """Stable and effective rank, from singular values in float64; 0 where every atom is zero."""
    values_D = torch.linalg.svdvals(atoms_FD.double())
    if not bool(values_D[0] > 0):
        return Ranks(0.0, 0.0)
    stable = (values_D / values_D[0]).square().sum()
    shares_D = values_D / values_D.sum()
    return Ranks(float(stable), float(torch.special.entr(shares_D).sum().exp()))


def zero_atoms(atoms_FD: Tensor) -> list[int]:
    """Which atoms have length zero."""
    indices: list[int] = (~atoms_FD.any(1)).nonzero().squeeze(1).tolist()
    return indices


def coherence(atoms_FD: Tensor) -> float:
    """max over i != j of |cos(D_i, D_j)|; 0 where there are not two atoms."""
    unit_FD = unit_rows(atoms_FD.float())
    largest = 0.0
    for part in blocks(len(unit_FD), 4 * len(unit_FD)):
        cosine_BF = (unit_FD[part] @ unit_FD.T).abs()
        cosine_BF[:, part].fill_diagonal_(0)
        largest = max(largest, float(cosine_BF.max()))
    return min(largest, 1.0)


def max_cosine(atoms_FD: Tensor, other_GD: Tensor) -> float:
    """max over all pairs of cos(D_i, D'_j): near 1 for almost any two dictionaries."""
    near = Nearest(atoms_FD)
    near.add(other_GD)
    return float(near.cosine_F.max())


def hull_bound(weights_FN: Tensor) -> Tensor:
    """1 - max_j W_ij [F]: no atom `W_i C` is farther than this from the points C, if those are orthonormal (F.4)."""
    return 1 - weights_FN.max(1).values


class Nearest:
    """For each direction, the row of largest cosine among all that are added: exact, however many there are.

    Rows as stored and rows about their mean give different cosines: the caller chooses, and says which.
    """

    def __init__(self, directions_FD: Tensor) -> None:
        self._unit_FD = unit_rows(directions_FD.detach().float())
        self.cosine_F = torch.full_like(self._unit_FD[:, 0], -torch.inf)
        self.row_F = torch.full_like(self.cosine_F, -1, dtype=torch.int64)
        self.n = 0

    @torch.no_grad()
    def add(self, x_BD: Tensor) -> None:
        """Look at the rows of a batch; rows of length zero are passed over."""
        at_R = x_BD.any(1).nonzero().squeeze(1).to(self.row_F.device)
        x_RD = unit_rows(x_BD.to(self._unit_FD)[at_R])
        for part in blocks(len(self._unit_FD), 4 * len(at_R)) if len(at_R) else ():
            cosine, at = (self._unit_FD[part] @ x_RD.T).max(1)
            better = cosine > self.cosine_F[part]
            self.cosine_F[part] = torch.where(better, cosine, self.cosine_F[part]).clamp_max(1)
            self.row_F[part] = torch.where(better, at_R[at] + self.n, self.row_F[part])
        self.n += len(x_BD)

    @property
    def ood(self) -> float:
        """1 - mean over the atoms of the largest cosine with any row; 1 where every atom is zero."""
        directed_F = self._unit_FD.any(1)
        return 1 - float(self.cosine_F[directed_F].mean()) if bool(directed_F.any()) else 1.0


class Coverage(NamedTuple):
    """How many pairs of features fire together; it rises with the number of rows, so compare at equal n."""

    value: float
    """Share of the F^2 ordered pairs, a feature with itself included, that fire together often enough."""
    null: float
    """The same if every feature fired as often as it does, but independently of all others."""
    n: int
    """Rows that were looked at."""
    threshold: int
    """A pair counts if it fired together in more rows than this."""

    @property
    def connectivity(self) -> float:
        """1 - value, which is what the paper calls connectivity: it falls as more pairs fire together."""
        return 1 - self.value


class Interference(NamedTuple):
    """Spectral norm of the negative part of (Z^T Z) * (D D^T): features that fire together and cancel each other."""

    raw: float
    """As defined; it grows with the number of rows."""
    per_row: float
    """raw / n."""
    unit: float
    """The same per row with atoms of length 1 and the codes as they are."""


class CoFiring:
    """Which features fire together, how often and how strongly, over batches of codes.

    Kept for j < i only, and only for pairs that did: 20 bytes for each.
    """

    def __init__(self, width: int) -> None:
        self.n = 0
        self.fired_F = np.zeros(width, np.int64)
        self._width = width
        self._held: list[csr_array] = []
        self._work = 0
        self._counts = csr_array((width, width), dtype=np.int32)
        self._gram = csr_array((width, width), dtype=np.float64)

    def add(self, codes: Codes) -> None:
        """Count the codes of a batch in."""
        z_BF = self._csr(codes)
        active_B = np.diff(z_BF.indptr).astype(np.int64)
        self.n += len(active_B)
        self.fired_F += np.bincount(z_BF.indices, minlength=self._width)
        self._held.append(z_BF)
        self._work += int(active_B @ active_B)
        if self._work >= max(_HELD, self._gram.nnz):
            self._count()

    def pair_coverage(self, threshold: int = 0) -> Coverage:
        """Share of pairs that fire together in more than `threshold` rows."""
        self._count()
        alone = int((self.fired_F > threshold).sum())
        together = 2 * int((self._counts.data > threshold).sum())
        by_chance = _by_chance(self.fired_F, self.n, threshold)
        square = self._width**2
        return Coverage((alone + together) / square, (alone + by_chance) / square, self.n, threshold)

    def interference(self, atoms_FD: Tensor) -> Interference:
        """Of these codes with `atoms_FD`; give it random atoms for what it is where atoms do not know of the codes."""
        self._count()
        cosine_A = _cosines(self._gram, atoms_FD)
        lengths_F = atoms_FD.double().norm(dim=1).cpu().numpy()
        rows_A = np.repeat(np.arange(self._width), np.diff(self._gram.indptr))
        negative_A = np.maximum(-self._gram.data * cosine_A, 0)
        raw = _spectral_norm(self._gram, negative_A * lengths_F[rows_A] * lengths_F[self._gram.indices])
        n = max(self.n, 1)
        return Interference(raw, raw / n, _spectral_norm(self._gram, negative_A) / n)

    def _csr(self, codes: Codes) -> csr_array:
        match codes:
            case Dense():
                n_rows = len(codes.z_BF)
            case Sparse():
                n_rows = len(codes.starts_B) - 1
            case _:
                assert_never(codes)
        rows_A, features_A, values_A = codes.active()
        entries = values_A.detach().double().cpu().numpy(), (rows_A.cpu().numpy(), features_A.cpu().numpy())
        return csr_array(entries, shape=(n_rows, self._width))

    def _count(self) -> None:
        """Turn the rows held into pairs."""
        if not self._held:
            return
        z_BF = vstack(self._held, format="csr")
        ones_BF = csr_array((np.ones(z_BF.nnz, np.int32), z_BF.indices, z_BF.indptr), shape=z_BF.shape)
        few = self._work * _FEW**2 < z_BF.shape[0] * self._width**2
        self._gram = self._gram + _lower(z_BF, few)
        self._counts = self._counts + _lower(ones_BF, few).astype(np.int32)
        self._held, self._work = [], 0


def _lower(z_BF: csr_array, few: bool) -> csr_array:
    """z^T z below the diagonal, its indices in order, without which sums of two take four times as long."""
    if not few:
        z = z_BF.toarray().astype(np.float64)
        return csr_array(np.tril(z.T @ z, -1))
    square_FF = z_BF.T.tocsr() @ z_BF
    rows_A = np.repeat(np.arange(z_BF.shape[1], dtype=square_FF.indices.dtype), np.diff(square_FF.indptr))
    above_A = square_FF.indices > rows_A
    starts_F = np.searchsorted(rows_A[above_A], np.arange(z_BF.shape[1] + 1, dtype=rows_A.dtype))
    upper = csr_array((square_FF.data[above_A], square_FF.indices[above_A], starts_F), shape=square_FF.shape)
    return upper.T.tocsr()


def _cosines(pairs: csr_array, atoms_FD: Tensor) -> np.ndarray:
    """The cosine of the two atoms of every pair, in the order of the pairs: [A]."""
    unit_FD = unit_rows(atoms_FD.detach().float())
    cosine_A = np.empty(pairs.nnz)
    for part in blocks(len(unit_FD), 4 * len(unit_FD)):
        mine = slice(pairs.indptr[part.start], pairs.indptr[part.stop])
        at = np.repeat(np.arange(part.stop - part.start), np.diff(pairs.indptr[part.start : part.stop + 1]))
        cosine_A[mine] = (unit_FD[part] @ unit_FD.T).cpu().numpy()[at, pairs.indices[mine]]
    return cosine_A


def _spectral_norm(pairs: csr_array, values_A: np.ndarray) -> float:
    """Of the symmetric matrix with these values, none negative, below its diagonal, and zeros on it.

    No eigenvalue is larger in size than the largest, and its vector has no negative entry (Perron, Frobenius): hence
    the start from ones.
    """
    if not values_A.any():
        return 0.0
    lower = csr_array((values_A, pairs.indices, pairs.indptr), shape=pairs.shape)
    upper = lower.T.tocsr()
    both = LinearOperator(pairs.shape, matvec=lambda v: upper @ v + lower @ v, dtype=np.float64)
    return float(eigsh(both, k=1, which="LA", v0=np.ones(pairs.shape[0]), return_eigenvectors=False)[0])


def _by_chance(fired_F: np.ndarray, n: int, threshold: int) -> float:
    """Ordered pairs of two features expected to fire together in more than `threshold` of n rows by chance.

    Rows in common of two features that fire in a and b of n rows are hypergeometric. (logpmf: scipy's pmf and sf take
    700 times as long.)
    """
    counts_U, many_U = np.unique(fired_F[fired_F > threshold], return_counts=True)
    expected = 0.0
    for part in blocks(len(counts_U), 64 * len(counts_U)):
        a_B1 = counts_U[part, None]
        few_BU = sum(np.exp(hypergeom.logpmf(k, n, a_B1, counts_U)) for k in range(threshold + 1))
        pairs_BU = many_U[part, None] * (many_U - (a_B1 == counts_U))  # a feature is no pair with itself
        expected += float(((1 - few_BU) * pairs_BU).sum())
    return expected
