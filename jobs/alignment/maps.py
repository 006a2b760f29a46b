"""Linear maps from one site to another, fitted from moments of the training rows and judged on moments of others.

Rows are vectors: y = (x - mean_source) M + mean_target. Shapes: N rows, S source width, T target width.
"""

from dataclasses import dataclass
from typing import Self, assert_never

import numpy as np
import torch
from safetensors.numpy import load
from torch import Tensor

from jobs.alignment.moments import Pair
from storage.value import Value

SOLVABLE = 1e-12
"""Directions whose variance is below this share of the largest are no data but rounding, and are left out."""


class LeastSquares(Value, tag_field="kind", tag="least-squares"):
    """argmin |X M - Y|^2; of all minimisers the one of least norm."""


class Ridge(Value, tag_field="kind", tag="ridge"):
    """argmin |X M - Y|^2 + p v n |M|^2, v the mean variance of a source dimension."""

    penalties: tuple[float, ...] = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    """Candidates for p (no unit); the one with the highest R2 on validation documents is kept."""

    def __post_init__(self) -> None:
        if not self.penalties or min(self.penalties) <= 0:
            raise ValueError(f"ridge needs at least one penalty, all above 0, but penalties is {self.penalties}")


class Procrustes(Value, tag_field="kind", tag="procrustes"):
    """argmin |s X Q - Y|^2 over rotations Q, from the singular vectors of X'Y (Schoenemann 1966).

    Where widths differ, Q is the semi-orthogonal solution: the narrower side is padded with zeros.
    """

    scale: bool = True
    """Also fit one factor s for all dimensions; a pure rotation otherwise."""


Map = LeastSquares | Ridge | Procrustes


def map_name(kind: Map) -> str:
    """How recipes, tables and files call it."""
    return str(kind.__struct_config__.tag)


@dataclass(frozen=True)
class Fitted:
    """A map as numbers, and how it was chosen."""

    M_ST: Tensor
    mean_S: Tensor
    mean_T: Tensor
    penalty: float | None = None
    """The ridge penalty that validation chose."""

    def apply(self, x_NS: Tensor) -> Tensor:
        """Where the map puts the rows."""
        return (x_NS - self.mean_S) @ self.M_ST + self.mean_T

    def arrays(self) -> dict[str, np.ndarray]:
        """What is stored in the artifact: M, mean_source, mean_target as float32."""
        named = {"M": self.M_ST, "mean_source": self.mean_S, "mean_target": self.mean_T}
        return {name: tensor.cpu().numpy().astype(np.float32) for name, tensor in named.items()}

    @classmethod
    def load(cls, data: bytes) -> Self:
        """A map from the bytes of its safetensors file."""
        arrays = {name: torch.from_numpy(array) for name, array in load(data).items()}
        return cls(arrays["M"], arrays["mean_source"], arrays["mean_target"])


@dataclass(frozen=True)
class Judged:
    """How a map does on rows given by their moments."""

    r2: float
    """1 - residual / total sum of squares, summed over dimensions, the total about the mean of the judged rows."""
    median_r2: float
    """The median over target dimensions of that dimension's own R2."""
    norm_ratio: float
    """Root mean square norm of mapped rows over that of target rows, both about the training mean."""


@dataclass(frozen=True)
class Spectrum:
    """Eigenvectors of the source covariance, shared by every target site."""

    values_S: Tensor
    vectors_SS: Tensor

    @classmethod
    def of(cls, xx_SS: Tensor) -> Self:
        """Of a matrix of centred sums."""
        values_S, vectors_SS = torch.linalg.eigh(xx_SS)
        return cls(values_S.clamp(min=0), vectors_SS)

    def solve(self, xy_ST: Tensor, penalty: float) -> Tensor:
        """(X'X + penalty mean(values) I)^-1 X'Y without the directions that hold no data."""
        shrunk_S = self.values_S + penalty * self.values_S.mean()
        solvable_S = shrunk_S > SOLVABLE * self.values_S.max()
        inverse_S = torch.where(solvable_S, 1 / shrunk_S.where(solvable_S, 1.0), 0.0)
        return self.vectors_SS @ (inverse_S[:, None] * (self.vectors_SS.T @ xy_ST))


def fit(kind: Map, train: Pair, validation: Pair, spectrum: Spectrum | None = None) -> Fitted:
    """The map of that kind for the training rows; `spectrum` is that of `train.xx_SS` where it is at hand."""
    spectrum = spectrum or Spectrum.of(train.xx_SS)
    match kind:
        case LeastSquares():
            return Fitted(spectrum.solve(train.xy_ST, 0.0), train.mean_S, train.mean_T)
        case Ridge(penalties=penalties):
            path = [
                Fitted(spectrum.solve(train.xy_ST, penalty), train.mean_S, train.mean_T, penalty)
                for penalty in penalties
            ]
            return max(path, key=lambda fitted: judge(fitted, validation).r2) if len(path) > 1 else path[0]
        case Procrustes(scale=scale):
            return Fitted(_rotation(train, scale), train.mean_S, train.mean_T)
        case _:
            assert_never(kind)


def judge(fitted: Fitted, rows: Pair) -> Judged:
    """R2 and size of the mapped rows, from the moments of rows that the fit did not see."""
    about = rows.about(fitted.mean_S, fitted.mean_T)
    mapped_T = (fitted.M_ST * (about.xx_SS @ fitted.M_ST)).sum(0)
    residual_T = about.yy_TT.diagonal() - 2 * (fitted.M_ST * about.xy_ST).sum(0) + mapped_T
    return judged(residual_T, rows.yy_TT.diagonal(), float((mapped_T.sum() / about.yy_TT.trace()).sqrt()))


def judged(residual_T: Tensor, total_T: Tensor, norm_ratio: float) -> Judged:
    """From residual and total sums of squares of each target dimension; constant dimensions have no R2 of their own."""
    varying_T = total_T > 0
    each_T = 1 - residual_T[varying_T] / total_T[varying_T]
    return Judged(float(1 - residual_T.sum() / total_T.sum()), float(each_T.median()), norm_ratio)


def _rotation(train: Pair, scale: bool) -> Tensor:
    left, _, right = torch.linalg.svd(train.xy_ST, full_matrices=False)
    Q_ST = left @ right
    if not scale:
        return Q_ST
    return Q_ST * (Q_ST * train.xy_ST).sum() / (Q_ST * (train.xx_SS @ Q_ST)).sum()
