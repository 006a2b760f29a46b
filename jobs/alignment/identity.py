"""The baseline to beat: predict a target row from the source row's token id alone, by that token's mean.

Shapes: N rows of a block, V token classes (0 stands for every token without one of its own), B all target sites side
by side, T the width of one.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from jobs.alignment.maps import Judged, judged

MAX_TOKENS = 8192
"""Tokens with a mean of their own, the most frequent in training; the others share one."""
PSEUDO_COUNTS = (0.0, 1.0, 3.0, 10.0)
"""Candidate rows of the overall mean mixed into each token's; validation chooses, so that rare tokens do not hurt."""


def token_classes(train_token_N: np.ndarray, token_N: np.ndarray) -> tuple[np.ndarray, int]:
    """The class of each row's token, and how many classes there are."""
    tokens, counts = np.unique(train_token_N, return_counts=True)
    kept = np.sort(tokens[np.argsort(-counts, kind="stable")[:MAX_TOKENS]])
    place = np.searchsorted(kept, token_N).clip(max=len(kept) - 1)
    return np.where(kept[place] == token_N, place + 1, 0), len(kept) + 1


class TokenSums:
    """Count and float64 sum of the target rows of each token class, about a fixed shift."""

    def __init__(self, n_classes: int, shift_B: Tensor) -> None:
        self.shift_B = shift_B
        self.count_V = shift_B.new_zeros(n_classes)
        self.sum_VB = shift_B.new_zeros(n_classes, len(shift_B))
        self.square_B = torch.zeros_like(shift_B)

    def add(self, class_N: Tensor, y_NB: Tensor) -> None:
        """Adds rows and their token classes."""
        y_NB = y_NB - self.shift_B
        self.count_V += torch.bincount(class_N, minlength=len(self.count_V))
        self.sum_VB.index_add_(0, class_N, y_NB)
        self.square_B += y_NB.square().sum(0)

    def judge(self, mean_VT: Tensor, site: slice) -> Judged:
        """How well each row of one target site is predicted by its class's vector; norms are about the shift."""
        n, mean_VT, sum_VT, square_T = (
            self.count_V.sum(),
            mean_VT - self.shift_B[site],
            self.sum_VB[:, site],
            self.square_B[site],
        )
        predicted_T = self.count_V @ mean_VT.square()
        residual_T = square_T - 2 * (mean_VT * sum_VT).sum(0) + predicted_T
        return judged(
            residual_T, square_T - sum_VT.sum(0).square() / n, float((predicted_T.sum() / square_T.sum()).sqrt())
        )


@dataclass(frozen=True)
class TokenMeans:
    """A vector for each token class, and what it is worth on validation rows."""

    mean_VT: Tensor
    validation_r2: float

    @classmethod
    def fit(cls, train: TokenSums, validation: TokenSums, site: slice) -> "TokenMeans":
        """(sum + c mean) / (count + c) for the pseudo-count c that does best on validation rows."""
        mean_T = train.sum_VB[:, site].sum(0) / train.count_V.sum()
        best: TokenMeans | None = None
        for pseudo in PSEUDO_COUNTS:
            weight_V1 = (train.count_V + pseudo).clamp(min=1)[:, None]
            own_VT = (train.sum_VB[:, site] - train.count_V[:, None] * mean_T) / weight_V1
            mean_VT = own_VT + mean_T + train.shift_B[site]
            candidate = cls(mean_VT, validation.judge(mean_VT, site).r2)
            if best is None or candidate.validation_r2 > best.validation_r2:
                best = candidate
        assert best is not None
        return best
