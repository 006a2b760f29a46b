"""One pair of sites in depth: every map beside its permuted null and the token-identity baseline, and CCA.

Shapes: M matched rows, N sampled rows, S source width, T target width, K canonical directions.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from jobs.alignment.config import Config
from jobs.alignment.grid import Passed
from jobs.alignment.maps import Fitted, Judged, Map, Ridge, fit, judge
from jobs.alignment.moments import Pair, Sums
from jobs.alignment.rows import Rows, draw
from jobs.alignment.similarity import Cca, effective_rank, fit_cca, mean_cosine, retrieval

KS = (1, 10)
"""Depths of retrieval."""
SVCCA_VARIANCE = 0.99
"""Share of variance that SVCCA's principal components keep."""


@dataclass(frozen=True)
class Found:
    """What one way to predict the target row from the source row is worth on test rows."""

    judged: Judged
    cosine: float
    """Mean cosine of predicted and target row, both about the training mean."""
    retrieval: dict[int, float]


@dataclass(frozen=True)
class Mapped:
    """One fitted map with its null."""

    kind: Map
    fitted: Fitted
    held_out: Found
    null: Found
    """The same kind of map fitted to training rows whose targets were permuted, judged on the same test rows."""
    train_r2: float
    rank: int
    effective_rank: float

    @property
    def at_edge(self) -> bool:
        """Whether validation chose the largest penalty there was, so that a larger one might do better."""
        penalties = self.kind.penalties if isinstance(self.kind, Ridge) else ()
        return len(penalties) > 1 and self.fitted.penalty == max(penalties)


@dataclass(frozen=True)
class Study:
    """Everything about the chosen pair."""

    maps: list[Mapped]
    token: Found
    """The token-identity baseline."""
    cca: Cca
    correlations_K: np.ndarray
    """Canonical correlations on test rows."""
    null_correlations_K: np.ndarray
    """The same for directions fitted to permuted rows."""
    svcca: float
    """Mean held-out correlation between the principal components that keep 99% of the variance."""
    null_svcca: float
    null_cka: float
    """Debiased CKA of the permuted rows."""
    n_sampled: int
    n_null: int


@dataclass(frozen=True)
class Sample:
    """Test rows kept in memory for what moments cannot tell: cosine and retrieval."""

    x_NS: Tensor
    y_NT: Tensor
    class_N: Tensor

    def found(self, judged: Judged, mapped_NT: Tensor, mean_T: Tensor) -> Found:
        """Judges predicted rows."""
        mapped_NT, target_NT = (mapped_NT - mean_T).float(), (self.y_NT - mean_T).float()
        return Found(judged, mean_cosine(mapped_NT, target_NT), retrieval(mapped_NT, target_NT, KS))


def study(rows: Rows, passed: Passed, at: tuple[int, int], config: Config) -> Study:
    """Fits, nulls and baselines for source site `at[0]` and target site `at[1]`; reads two samples of rows."""
    pairs, rows = passed.pairs(*at), rows.only(*at)
    sample = _sample(rows, passed.class_M, draw(rows.split.test, config.retrieval_rows, config.seed))
    permuted = permuted_sums(rows, draw(rows.split.train, config.null_rows, config.seed), config.seed)
    train, test, null = pairs["train"], pairs["test"], permuted.pair(0, 0)
    cca, null_cca = (fit_cca(moments, ridge=config.cca_ridge) for moments in (train, null))
    svcca, null_svcca = (fit_cca(moments, variance=SVCCA_VARIANCE) for moments in (train, null))
    token_mean_NT = passed.baseline(at[1]).mean_VT[sample.class_N]
    return Study(
        maps=[_mapped(kind, train, pairs["validation"], test, null, sample) for kind in config.maps],
        token=sample.found(passed.judge_baseline(at[1]), token_mean_NT, train.mean_T),
        cca=cca,
        correlations_K=cca.correlations(test).cpu().numpy(),
        null_correlations_K=null_cca.correlations(test).cpu().numpy(),
        svcca=float(svcca.correlations(test).mean()),
        null_svcca=float(null_svcca.correlations(test).mean()),
        null_cka=permuted.cka(0, 0),
        n_sampled=len(sample.class_N),
        n_null=permuted.n,
    )


def _mapped(kind: Map, train: Pair, validation: Pair, test: Pair, null: Pair, sample: Sample) -> Mapped:
    fitted = fit(kind, train, validation)
    null_kind = kind if fitted.penalty is None else Ridge(penalties=(fitted.penalty,))
    nothing = fit(null_kind, null, validation)
    return Mapped(
        kind=kind,
        fitted=fitted,
        held_out=sample.found(judge(fitted, test), fitted.apply(sample.x_NS), fitted.mean_T),
        null=sample.found(judge(nothing, test), nothing.apply(sample.x_NS), nothing.mean_T),
        train_r2=judge(fitted, train).r2,
        rank=int(torch.linalg.matrix_rank(fitted.M_ST)),
        effective_rank=effective_rank(fitted.M_ST),
    )


def _sample(rows: Rows, class_M: np.ndarray, drawn_N: np.ndarray) -> Sample:
    class_N = torch.from_numpy(class_M[drawn_N]).to(rows.device)
    return Sample(rows.source_rows(drawn_N), rows.target_rows(drawn_N), class_N)


def permuted_sums(rows: Rows, drawn_N: np.ndarray, seed: int) -> Sums:
    """Sums over drawn rows, each source row beside the target row of another."""
    sums = Sums(*rows.means())
    places = list(rows.blocks(len(drawn_N)))
    y_NT = torch.cat([rows.target_rows(drawn_N[place]).float() for place in places])
    order_N = np.random.default_rng(seed).permutation(len(drawn_N))
    for place in places:
        permuted_N = torch.from_numpy(order_N[place]).to(rows.device)
        sums.add(rows.source_rows(drawn_N[place]), y_NT[permuted_N].double())
    return sums
