"""What each map is worth on tokens that it was not fitted to, beside the same on permuted rows.

N tokens or matched rows, S source width, T target width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from jobs.alignment.maps import Fitted, LeastSquares, Ridge, judge
from jobs.alignment.moments import Pair
from jobs.alignment.similarity import mean_cosine, retrieval
from jobs.alignment.study import KS, Found
from jobs.core.splits import Split
from jobs.emb2emb.config import Config
from jobs.emb2emb.maps import LowRank, Map, fit, map_name, moments, settled, uncentred


@dataclass(frozen=True)
class Tables:
    """The rows of the shared tokens in both models, float32, and which part of the split each token is in."""

    x_NS: Tensor
    y_NT: Tensor
    split: Split

    def rows(self, mask_N: np.ndarray) -> Tensor:
        """Their numbers."""
        return torch.from_numpy(np.flatnonzero(mask_N)).to(self.x_NS.device)

    @property
    def fitted_rows(self) -> Tensor:
        """All that a map may see."""
        return self.rows(~self.split.test)


@dataclass(frozen=True)
class Mapped:
    """One map, what it does, and what the same kind does that was fitted to permuted rows."""

    name: str
    fitted: Fitted
    held_out: Found
    null: Found
    remark: str = ""
    """Which penalty or rank was chosen."""

    @property
    def rank(self) -> int:
        """Of the matrix."""
        return int(torch.linalg.matrix_rank(self.fitted.M_ST))


class Judge:
    """Held-out tokens, and how well a map sends them to their rows in the target."""

    def __init__(self, tables: Tables, config: Config) -> None:
        test_N = tables.rows(tables.split.test)
        self._pair = moments(tables.x_NS, tables.y_NT, test_N)
        drawn = np.random.default_rng(config.seed).permutation(len(test_N))[: config.retrieval_rows]
        shown_N = test_N[torch.from_numpy(np.sort(drawn)).to(test_N.device)]
        self._x_NS, self._y_NT = tables.x_NS[shown_N], tables.y_NT[shown_N]
        self.n = len(test_N)
        self.n_candidates = len(shown_N)

    def __call__(self, fitted: Fitted) -> Found:
        """R2 about the mean of the judged rows; cosine and retrieval about the fit's own origin."""
        mapped_NT = (fitted.apply(self._x_NS.double()) - fitted.mean_T).float()
        target_NT = (self._y_NT.double() - fitted.mean_T).float()
        return Found(judge(fitted, self._pair), mean_cosine(mapped_NT, target_NT), retrieval(mapped_NT, target_NT, KS))


def study(tables: Tables, config: Config, judged: Judge) -> tuple[list[Mapped], Fitted]:
    """Every map of the tables, and the least-squares map of the first permutation."""
    train, validation = (
        _about(moments(tables.x_NS, tables.y_NT, tables.rows(mask)), config)
        for mask in (tables.split.train, tables.split.validation)
    )
    both = _about(moments(tables.x_NS, tables.y_NT, tables.fitted_rows), config)
    nulls = [_about(_permuted(tables, config.seed + at), config) for at in range(config.permutations)]
    found = []
    for asked in config.of_tables:
        kind = settled(asked, train, validation)
        fitted = fit(kind, both)
        null = averaged([judged(fit(kind, permuted)) for permuted in nulls])
        found.append(Mapped(map_name(kind), fitted, judged(fitted), null, _remark(kind)))
    return found, fit(LeastSquares(), nulls[0])


def averaged(found: Sequence[Found]) -> Found:
    """The mean of each number."""
    judged = [one.judged for one in found]
    names = ("r2", "median_r2", "norm_ratio")
    mean = type(judged[0])(*(float(np.mean([getattr(one, name) for one in judged])) for name in names))
    retrieved = {k: float(np.mean([one.retrieval[k] for one in found])) for k in found[0].retrieval}
    return Found(mean, float(np.mean([one.cosine for one in found])), retrieved)


def _about(pair: Pair, config: Config) -> Pair:
    return pair if config.center else uncentred(pair)


def _permuted(tables: Tables, seed: int) -> Pair:
    """Each source row that may be fitted beside the target row of another such token."""
    rows_N = tables.fitted_rows
    order = np.random.default_rng(seed).permutation(len(rows_N))
    y_NT = tables.y_NT[rows_N[torch.from_numpy(order).to(rows_N.device)]]
    return moments(tables.x_NS[rows_N], y_NT, torch.arange(len(rows_N), device=rows_N.device))


def _remark(kind: Map) -> str:
    match kind:
        case Ridge(penalties=penalties):
            return f"penalty {penalties[0]:g}"
        case LowRank(ranks=ranks):
            return f"rank {ranks[0]}"
        case _:
            return ""
