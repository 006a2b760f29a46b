"""Moments of rows, merged exactly: count, mean, sum of squared deviations, largest magnitude."""

from collections.abc import Iterable

import numpy as np

from storage.value import Value

_BLOCK = 4096
"""Rows summed at once: bounds the float32 copy that 16-bit rows need."""


class Moments(Value):
    """Per-dimension moments of the finite rows; rows with a NaN or an infinity are only counted."""

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

    @property
    def mean(self) -> np.ndarray:
        """Mean of every dimension, float64 [d]."""
        return np.array(self.mean_D)

    @property
    def variance(self) -> np.ndarray:
        """Population variance of every dimension, float64 [d]."""
        return np.array(self.m2_D) / max(self.count, 1)


def measure(x_ND: np.ndarray) -> Moments:
    """The moments of rows [n, d] of any stored dtype, block by block."""
    return merge(_measure_block(x_ND[at : at + _BLOCK]) for at in range(0, len(x_ND), _BLOCK))


def merge(parts: Iterable[Moments]) -> Moments:
    """Moments of all parts together (Chan, Golub and LeVeque 1979), in the order given."""
    count, nonfinite, max_abs = 0, 0, 0.0
    mean_D = m2_D = np.zeros(0)
    for part in parts:
        nonfinite, max_abs = nonfinite + part.nonfinite, max(max_abs, part.max_abs)
        if part.count == 0:
            continue
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
    )


def _measure_block(x_ND: np.ndarray) -> Moments:
    x_ND = x_ND.astype(np.float32)
    finite_N = np.isfinite(x_ND).all(axis=1)
    nonfinite = int((~finite_N).sum())
    if nonfinite:
        x_ND = x_ND[finite_N]
    if len(x_ND) == 0:
        return Moments(count=0, nonfinite=nonfinite)
    max_abs = float(max(x_ND.max(), -x_ND.min()))
    mean_D = x_ND.mean(axis=0, dtype=np.float64)
    x_ND -= mean_D.astype(np.float32)
    # the deviations from the rounded mean have a small mean of their own: subtract it exactly
    rest_D = mean_D - mean_D.astype(np.float32)
    m2_D = np.einsum("nd,nd->d", x_ND, x_ND, dtype=np.float64) - len(x_ND) * rest_D**2
    return Moments(
        count=len(x_ND),
        mean_D=tuple(mean_D.tolist()),
        m2_D=tuple(np.maximum(m2_D, 0).tolist()),
        max_abs=max_abs,
        nonfinite=nonfinite,
    )
