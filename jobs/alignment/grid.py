"""One pass over the matched rows of all sites, and what it says of every source and target site.

Shapes: M matched rows, N rows of a block, A all source sites side by side, B all target sites.
"""

from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np
import torch

from jobs.alignment.identity import TokenMeans, TokenSums, token_classes
from jobs.alignment.maps import Fitted, Judged, Map, Spectrum, fit, judge
from jobs.alignment.moments import Pair, Sums, spans
from jobs.alignment.rows import Rows
from jobs.alignment.similarity import cka_without, widest

Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")
WIDEST = 3
"""Principal components removed in the control for a few directions that carry most of the variance."""


@dataclass(frozen=True)
class Passed:
    """The sums of each part of the split."""

    sums: dict[Part, Sums]
    tokens: dict[Part, TokenSums]
    class_M: np.ndarray
    """Token class of each matched row."""
    target_spans: list[slice]
    """Where each target site lies in the token sums."""

    def pairs(self, i: int, j: int) -> dict[Part, Pair]:
        """Moments of source site i and target site j in each part."""
        return {part: sums.pair(i, j) for part, sums in self.sums.items()}

    def baseline(self, j: int) -> TokenMeans:
        """The token-identity baseline of target site j."""
        return TokenMeans.fit(self.tokens["train"], self.tokens["validation"], self.target_spans[j])

    def judge_baseline(self, j: int) -> Judged:
        """How that baseline does on test rows."""
        return self.tokens["test"].judge(self.baseline(j).mean_VT, self.target_spans[j])


@dataclass(frozen=True)
class Cell:
    """One source site against one target site; R2 are held out."""

    source: int
    target: int
    r2: tuple[float, ...]
    """On test rows, of each map asked for."""
    validation_r2: tuple[float, ...]
    """On validation rows."""
    token_r2: float
    """Of the token-identity baseline, on test rows."""
    token_validation_r2: float
    cka: float
    """Debiased, over all matched rows."""
    cka_without_widest: float
    """Over all matched rows, after removing the widest principal components of both sides."""

    @property
    def best(self) -> int:
        """Which map does best on validation rows."""
        return int(np.argmax(self.validation_r2))

    @property
    def best_r2(self) -> float:
        """What that map does on test rows."""
        return self.r2[self.best]

    @property
    def validation_lead(self) -> float:
        """How much more variance than token identity the best map explains on validation rows."""
        return self.validation_r2[self.best] - self.token_validation_r2


def pass_over(rows: Rows) -> Passed:
    """Sums over all matched rows; each row of each cache is read once."""
    source_means, target_means = rows.means()
    token_M = rows.matched.token_M
    class_M, n_classes = token_classes(token_M[rows.split.train], token_M)
    sums = {part: Sums(source_means, target_means) for part in PARTS}
    tokens = {part: TokenSums(n_classes, torch.cat(target_means)) for part in PARTS}
    for block in rows.blocks(len(token_M)):
        at = np.arange(block.start, block.stop)
        parts = [at[getattr(rows.split, part)[at]] for part in PARTS]
        at = np.concatenate(parts)
        x_NA, y_NB, class_N = rows.source_rows(at), rows.target_rows(at), torch.from_numpy(class_M[at]).to(rows.device)
        for part, span in zip(PARTS, spans([len(part) for part in parts]), strict=True):
            sums[part].add(x_NA[span], y_NB[span])
            tokens[part].add(class_N[span], y_NB[span])
    return Passed(sums, tokens, class_M, spans([acts.d for acts in rows.target]))


def cells(passed: Passed, maps: tuple[Map, ...]) -> list[Cell]:
    """Every pair of sites, source site by source site."""
    train, everything = passed.sums["train"], passed.sums["train"].plus(passed.sums["validation"], passed.sums["test"])
    n_source, n_target = train.n_source, len(passed.target_spans)
    spectra = [Spectrum.of(train.pair(i, 0).xx_SS) for i in range(n_source)]
    wide_source = [widest(everything.pair(i, 0).xx_SS, WIDEST) for i in range(n_source)]
    wide_target = [widest(everything.pair(0, j).yy_TT, WIDEST) for j in range(n_target)]
    tokens = [(passed.judge_baseline(j).r2, passed.baseline(j).validation_r2) for j in range(n_target)]
    found = []
    for i, j in product(range(n_source), range(n_target)):
        pairs = passed.pairs(i, j)
        fitted = [fit(kind, pairs["train"], pairs["validation"], spectra[i]) for kind in maps]
        found.append(
            Cell(
                source=i,
                target=j,
                r2=_r2(fitted, pairs["test"]),
                validation_r2=_r2(fitted, pairs["validation"]),
                token_r2=tokens[j][0],
                token_validation_r2=tokens[j][1],
                cka=everything.cka(i, j),
                cka_without_widest=cka_without(everything.pair(i, j), wide_source[i], wide_target[j]),
            )
        )
    return found


def _r2(fitted: list[Fitted], rows: Pair) -> tuple[float, ...]:
    return tuple(judge(one, rows).r2 for one in fitted)
