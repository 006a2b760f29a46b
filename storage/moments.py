"""Statistics of rows, merged exactly: count, mean, squared deviations, largest magnitude, quantiles of norms.

N: rows, D: width.
"""

from collections.abc import Callable, Iterable

import numpy as np

from storage.value import Value

_BLOCK_ENTRIES = 2**18
"""Entries summed at once in float32: 1 MiB, so that a block stays in a core's cache."""
_BLOCK_ROWS = 512
"""Most rows that are summed in float32 before float64 takes over, which bounds what rounding adds."""
_SAFE = 1e30
"""Squared norms below this are summed in float32; a row above it holds a NaN or an infinity, or summed in float64."""
_GAMMA = 1.02
"""Ratio of neighbouring edges of the norms' histogram."""


class Norms(Value):
    """Histogram of the rows' Euclidean norms with geometric bins (DDSketch, Masson, Rim and Lee 2019, section 2).

    Counts are integers, so merging is exact in any order; a quantile is off by at most 1 % of itself.
    """

    zeros: int = 0
    """Rows whose norm is 0."""
    first: int = 0
    """Number of the lowest bin that holds a row: bin i is (1.02^(i-1), 1.02^i]."""
    counts: tuple[int, ...] = ()
    """Rows of the bins from there on."""

    @property
    def count(self) -> int:
        return self.zeros + sum(self.counts)

    def quantile(self, q: float) -> float:
        """The norm below which a share `q` of the rows lies, within 1 % of itself; NaN if there is no row."""
        if not self.count:
            return float("nan")
        rank = q * (self.count - 1)
        if rank < self.zeros:
            return 0.0
        at = int(np.searchsorted(np.cumsum(self.counts), rank - self.zeros, side="right"))
        return float(2 * _GAMMA ** (self.first + at) / (1 + _GAMMA))


class Moments(Value):
    """Of the finite rows, per dimension where not said otherwise; rows with a NaN or an infinity are only counted."""

    count: int
    """Rows the moments are of."""
    mean_D: tuple[float, ...] = ()
    """Mean of every dimension; empty if there is no row."""
    m2_D: tuple[float, ...] = ()
    """Sum over rows of the squared deviation from the mean."""
    max_abs: float = 0.0
    """Largest magnitude of any entry."""
    nonfinite: int = 0
    """Rows left out because an entry is not finite."""
    norms: Norms = Norms()
    """Of the rows' Euclidean norms."""
    rounding: float = 0.0
    """Squared error, summed over all entries, that the stored type is expected to have added; 0 but for int8."""

    @property
    def mean(self) -> np.ndarray:
        """Mean of every dimension, float64 [D]."""
        return np.array(self.mean_D)

    @property
    def variance(self) -> np.ndarray:
        """Population variance of every dimension, float64 [D]: the diagonal of the covariance."""
        return np.array(self.m2_D) / max(self.count, 1)

    @property
    def unexplained(self) -> float:
        """Share of the variance that rounding to the stored type took (FVU); 0 for a type that does not round."""
        return self.rounding / total if (total := sum(self.m2_D)) else 0.0


def measure(x_NW: np.ndarray, decoded: Callable[[np.ndarray], np.ndarray] = np.asarray) -> Moments:
    """The moments of rows; of stored ones `decoded` makes numbers, block by block."""
    rows = min(max(_BLOCK_ENTRIES // max(x_NW.shape[1], 1), 1), _BLOCK_ROWS)
    sums, space_ND = _Sums(), np.empty((0, 0), np.float32)
    for at in range(0, len(x_NW), rows):
        block_ND = decoded(x_NW[at : at + rows])
        if len(space_ND) < len(block_ND):  # one space for all blocks: fresh memory costs as much as the sums
            space_ND = np.empty(block_ND.shape, np.float32)
        space_ND[: len(block_ND)] = block_ND
        sums.add(space_ND[: len(block_ND)])
    return sums.moments()


def merge(parts: Iterable[Moments]) -> Moments:
    """Moments of all parts together (Chan, Golub and LeVeque 1979), in the order given."""
    count, nonfinite, max_abs, rounding = 0, 0, 0.0, 0.0
    mean_D = m2_D = np.zeros(0)
    norms: list[Norms] = []
    for part in parts:
        nonfinite, max_abs = nonfinite + part.nonfinite, max(max_abs, part.max_abs)
        rounding += part.rounding
        if part.count == 0:
            continue
        norms.append(part.norms)
        if count == 0:
            count, mean_D, m2_D = part.count, part.mean, np.array(part.m2_D)
            continue
        delta_D, total = part.mean - mean_D, count + part.count
        mean_D = mean_D + delta_D * (part.count / total)
        m2_D = m2_D + np.array(part.m2_D) + delta_D**2 * (count * part.count / total)
        count = total
    return Moments(
        count=count,
        mean_D=tuple(mean_D.tolist()),
        m2_D=tuple(m2_D.tolist()),
        max_abs=max_abs,
        nonfinite=nonfinite,
        norms=_joined(norms),
        rounding=rounding,
    )


class _Sums:
    """Sums over the rows added so far, of their deviation from a fixed row near the mean."""

    def __init__(self) -> None:
        self._shift_D: np.ndarray | None = None
        self._sum_D: np.ndarray | float = 0.0
        self._squares_D: np.ndarray | float = 0.0
        self._norms: list[np.ndarray] = []
        self._nonfinite, self._max_abs = 0, 0.0

    def add(self, x_ND: np.ndarray) -> None:
        """Add float32 rows, which are overwritten. No BLAS: its threads would fight those that write shards."""
        squares_N = np.einsum("nd,nd->n", x_ND, x_ND)
        far = self._shift_D is not None and float(np.abs(self._shift_D).max()) ** 2 > _SAFE
        if far or not (squares_N < _SAFE).all():
            finite_N = np.isfinite(x_ND).all(axis=1)
            self._nonfinite += int((~finite_N).sum())
            x_ND = x_ND[finite_N].astype(np.float64)
            squares_N = np.einsum("nd,nd->n", x_ND, x_ND)
        if len(x_ND) == 0:
            return
        self._norms.append(np.sqrt(squares_N, dtype=np.float64))
        self._max_abs = max(self._max_abs, float(x_ND.max()), -float(x_ND.min()))
        if self._shift_D is None:
            self._shift_D = x_ND.mean(axis=0)
        x_ND -= self._shift_D
        self._sum_D = self._sum_D + x_ND.sum(axis=0).astype(np.float64)
        self._squares_D = self._squares_D + np.einsum("nd,nd->d", x_ND, x_ND).astype(np.float64)

    def moments(self) -> Moments:
        if self._shift_D is None:
            return Moments(count=0, nonfinite=self._nonfinite)
        norm_N = np.concatenate(self._norms)
        rest_D = self._sum_D / len(norm_N)
        return Moments(
            count=len(norm_N),
            mean_D=tuple((self._shift_D + rest_D).tolist()),
            m2_D=tuple(np.maximum(self._squares_D - len(norm_N) * rest_D**2, 0).tolist()),
            max_abs=self._max_abs,
            nonfinite=self._nonfinite,
            norms=_histogram(norm_N),
        )


def _histogram(norm_N: np.ndarray) -> Norms:
    zeros = int((norm_N == 0).sum())
    bins = np.ceil(np.log(norm_N[norm_N > 0]) / np.log(_GAMMA)).astype(np.int64)
    if not len(bins):
        return Norms(zeros=zeros)
    first = int(bins.min())
    return Norms(zeros=zeros, first=first, counts=tuple(np.bincount(bins - first).tolist()))


def _joined(parts: list[Norms]) -> Norms:
    held = [part for part in parts if part.counts]
    zeros = sum(part.zeros for part in parts)
    if not held:
        return Norms(zeros=zeros)
    first = min(part.first for part in held)
    total = np.zeros(max(part.first + len(part.counts) for part in held) - first, np.int64)
    for part in held:
        total[part.first - first :][: len(part.counts)] += np.array(part.counts)
    return Norms(zeros=zeros, first=first, counts=tuple(total.tolist()))
