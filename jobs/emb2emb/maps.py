"""Maps between tables of token vectors, from their second moments.

Vectors are rows: v_target = v_source M. S source width, T target width, N tokens, K rank.
"""

from dataclasses import replace
from typing import assert_never

import torch
from torch import Tensor

from jobs.alignment import maps as alignment
from jobs.alignment.maps import Fitted, LeastSquares, Procrustes, Ridge, Spectrum, judge
from jobs.alignment.moments import Pair
from jobs.core.linalg import blocks
from storage.value import Value


class LowRank(Value, tag_field="kind", tag="low-rank"):
    """argmin |X M - Y|^2 over maps of rank K: least squares, then the K widest directions of what it predicts
    (reduced-rank regression, Izenman 1975)."""

    ranks: tuple[int, ...] = (8, 16, 32, 64, 128, 256)
    """Candidates; the one with the highest R2 on validation tokens is kept. Those above both widths are passed by."""

    def __post_init__(self) -> None:
        if not self.ranks or min(self.ranks) < 1:
            raise ValueError(f"low-rank needs at least one rank, all of at least 1, but ranks is {self.ranks}")


class Logit(Value, tag_field="kind", tag="logit"):
    """The vector that changes the target's logits most nearly as v changes the source's: v_t = U_t^+ U_s v_s.

    As rows it is M = X'Y (Y'Y)^-1: not the least-squares map but the transpose of the one from target to source. They
    are the same only where Y = X Q and the rows of Q are orthonormal.
    """


Map = LeastSquares | Ridge | Procrustes | LowRank | Logit


def map_name(kind: Map) -> str:
    """How recipes, tables and files call it."""
    return str(kind.__struct_config__.tag)


def moments(x_NS: Tensor, y_NT: Tensor, rows_N: Tensor) -> Pair:
    """Float64 sums over those rows of both, about their means."""
    count = len(rows_N)
    width_s, width_t = x_NS.shape[1], y_NT.shape[1]
    parts = [rows_N[part] for part in blocks(count, 16 * (width_s + width_t))]
    mean_S = _total(x_NS, parts) / count
    mean_T = _total(y_NT, parts) / count
    xx_SS, yy_TT = (z.new_zeros(z.shape[1], z.shape[1], dtype=torch.float64) for z in (x_NS, y_NT))
    xy_ST = x_NS.new_zeros(width_s, width_t, dtype=torch.float64)
    for rows_B in parts:
        x_BS, y_BT = x_NS[rows_B].double() - mean_S, y_NT[rows_B].double() - mean_T
        xx_SS.addmm_(x_BS.T, x_BS)
        yy_TT.addmm_(y_BT.T, y_BT)
        xy_ST.addmm_(x_BS.T, y_BT)
    return Pair(count, mean_S, mean_T, xx_SS, yy_TT, xy_ST)


def _total(x_ND: Tensor, parts: list[Tensor]) -> Tensor:
    total_D = x_ND.new_zeros(x_ND.shape[1], dtype=torch.float64)
    for rows_B in parts:
        total_D += x_ND[rows_B].sum(0, dtype=torch.float64)
    return total_D


def uncentred(pair: Pair) -> Pair:
    """The same rows with their sums about the origin."""
    return pair.about(torch.zeros_like(pair.mean_S), torch.zeros_like(pair.mean_T))


def settled(kind: Map, train: Pair, validation: Pair) -> Map:
    """The kind with the penalty or the rank that validation rows choose."""
    match kind:
        case Ridge():
            penalty = alignment.fit(kind, train, validation).penalty
            assert penalty is not None
            return Ridge(penalties=(penalty,))
        case LowRank(ranks=ranks):
            widest = min(train.xy_ST.shape)
            path = [rank for rank in ranks if rank <= widest] or [widest]
            best = max(path, key=lambda rank: judge(reduced(train, rank), validation).r2)
            return LowRank(ranks=(best,))
        case _:
            return kind


def fit(kind: Map, train: Pair) -> Fitted:
    """The map of a settled kind."""
    match kind:
        case LeastSquares() | Ridge() | Procrustes():
            return alignment.fit(kind, train, train)
        case LowRank(ranks=ranks):
            return reduced(train, ranks[0])
        case Logit():
            backward = replace(train, xx_SS=train.yy_TT, yy_TT=train.xx_SS, xy_ST=train.xy_ST.T)
            M_TS = Spectrum.of(backward.xx_SS).solve(backward.xy_ST, 0.0)
            return Fitted(M_TS.T.contiguous(), train.mean_S, train.mean_T)
        case _:
            assert_never(kind)


def reduced(train: Pair, rank: int) -> Fitted:
    """The best map of that rank."""
    full = alignment.fit(LeastSquares(), train, train)
    predicted_TT = full.M_ST.T @ train.xx_SS @ full.M_ST
    _, vectors_TT = torch.linalg.eigh((predicted_TT + predicted_TT.T) / 2)
    widest_TK = vectors_TT[:, -rank:]
    return replace(full, M_ST=full.M_ST @ widest_TK @ widest_TK.T)
