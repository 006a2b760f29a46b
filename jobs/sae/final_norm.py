"""The norm between the last block and the unembedding, found again from rows of both sites.

A norm is a known function of a row with an unknown gain and bias per dimension: y = gain s(x) + bias, where s divides
the row, less its mean or not, by its length. So gain and bias are a least-squares line per dimension, and what the line
leaves says whether this was the norm at all.

N rows, D dimensions.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from jobs.core.tensors import as_tensor
from storage.errors import InputError
from storage.reader import Activations

Kind = Literal["layer", "rms", "none"]

_KINDS: tuple[Kind, ...] = ("layer", "rms", "none")
_EPS = (1e-12, 1e-8, 1e-6, 1e-5, 1e-3)
"""Those in use."""
_ROWS = 4096
_FEWEST_ROWS = 16
_EXACT = 1e-5
"""What a fit may leave of rows stored in float32, as a share of their length."""


@dataclass(frozen=True)
class FinalNorm:
    """LayerNorm, RMSNorm, or an affine map alone."""

    kind: Kind
    eps: float
    gain_D: Tensor
    bias_D: Tensor
    left: float
    """What the fit left, as a share of the rows' length."""

    def __call__(self, x_ND: Tensor) -> Tensor:
        """What the unembedding reads."""
        return _standardised(x_ND, self.kind, self.eps) * self.gain_D + self.bias_D


def fit(before: Activations, after: Activations, device: str) -> FinalNorm:
    """The norm that makes the rows of `after` from those of `before`; `InputError` where no norm does.

    Rows that are stored in fewer bits than float32 fit no better than they are rounded.
    """
    n = min(len(before), len(after))
    if n >= _FEWEST_ROWS and before.d == after.d:
        rows = np.linspace(0, n - 1, min(n, _ROWS)).astype(np.int64)
        x_ND, y_ND = (as_tensor(acts[rows], device) for acts in (before, after))
        found = [_line(x_ND, y_ND, kind, eps) for kind in _KINDS for eps in (_EPS if kind != "none" else (0.0,))]
        best = min(found, key=lambda norm: norm.left)
        grown = min(10.0, float(x_ND.norm() / (x_ND - x_ND.mean(1, keepdim=True)).norm()))
        allowed = max(_EXACT, rounding(after) + grown * rounding(before))
        if best.left <= allowed:
            return best
        why = f"the best norm leaves {best.left:.1e} of its rows where {allowed:.0e} is allowed"
    else:
        why = f"it has {n} rows of width {before.d}, unembed rows of width {after.d}"
    raise InputError(
        f"the loss at {before.site} cannot be worked out from the cache: no final norm leads from there to unembed "
        f"({why}); name the last block's site, or unembed itself, or take the loss from the live model"
    )


def _line(x_ND: Tensor, y_ND: Tensor, kind: Kind, eps: float) -> FinalNorm:
    s_ND, y_ND = _standardised(x_ND.double(), kind, eps), y_ND.double()
    mean_D = s_ND.mean(0)
    spread_D = (s_ND - mean_D).square().sum(0).clamp_min(torch.finfo(torch.float64).tiny)
    gain_D = ((s_ND - mean_D) * (y_ND - y_ND.mean(0))).sum(0) / spread_D
    bias_D = y_ND.mean(0) - gain_D * mean_D
    left = (y_ND - gain_D * s_ND - bias_D).norm() / y_ND.norm()
    return FinalNorm(kind, eps, gain_D.float(), bias_D.float(), float(left.nan_to_num(nan=torch.inf)))


def _standardised(x_ND: Tensor, kind: Kind, eps: float) -> Tensor:
    if kind == "none":
        return x_ND
    seen_ND = x_ND - x_ND.mean(-1, keepdim=True) if kind == "layer" else x_ND
    return seen_ND * (seen_ND.square().mean(-1, keepdim=True) + eps).rsqrt()


def rounding(acts: Activations) -> float:
    """What the stored type took of a row, as a share of it: half a unit in the last place, or what int8 took."""
    if acts.moments.rounding:
        return float(np.sqrt(acts.moments.unexplained))
    return float(torch.finfo(getattr(torch, acts.dtype.name)).eps) / 2
