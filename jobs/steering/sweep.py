"""Every vector at every strength, as lines of a table."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa

from jobs.steering.arms import Arm, Group
from jobs.steering.cached import Stored
from jobs.steering.config import Config
from jobs.steering.measure import Bench, Outcome, divergence, log_odds
from jobs.steering.prompts import Answers

REFERENCE = 1.0
"""The strength at which vectors are compared: one native norm."""


@dataclass(frozen=True)
class Line:
    """One vector at one strength."""

    arm: str
    group: Group
    matched: bool
    alpha: float
    evaluated: str
    """`live`, `cache` (exact) or `direct effect`."""
    log_odds: float
    low: float
    high: float
    shift: float
    """Of the log-odds from the unsteered model."""
    off_target: float
    nll: float | None
    """Of the steered text under the unsteered model; None where no text was made."""


def sweep(config: Config, bench: Bench, arms: Sequence[Arm]) -> list[Line]:
    """By the live model; random vectors make no text, which costs most."""
    return list(_live(config, bench, arms))


def from_cache(config: Config, kept: Stored, answers: Answers, arms: Sequence[Arm]) -> list[Line]:
    """Native and transferred vectors, without a model."""
    return list(_cached(config, kept, answers, arms))


def at(lines: Sequence[Line], arm: str, alpha: float = REFERENCE, evaluated: str = "live") -> Line:
    """The line of one arm."""
    return next(line for line in lines if (line.arm, line.alpha, line.evaluated) == (arm, alpha, evaluated))


def table(lines: Sequence[Line]) -> pa.Table:
    """A line each."""
    return pa.Table.from_pylist([asdict(line) for line in lines])


def _live(config: Config, bench: Bench, arms: Sequence[Arm]) -> Iterator[Line]:
    for arm in arms:
        for alpha in config.strengths:
            clean = alpha == 0
            found = bench.clean if clean else bench.outcome(alpha * arm.vector_T, generates=arm.group != "random")
            yield _line(config, arm, alpha, "live", found, bench.clean.log_odds)


def _cached(config: Config, kept: Stored, answers: Answers, arms: Sequence[Arm]) -> Iterator[Line]:
    clean_BV = kept.logits(None)
    before = float(log_odds(clean_BV, answers).mean())
    for arm in arms:
        if arm.group in ("native", "transfer"):
            for alpha in config.strengths:
                logits_BV = kept.logits(alpha * arm.vector_T)
                found = Outcome(log_odds(logits_BV, answers), divergence(clean_BV, logits_BV, answers))
                yield _line(config, arm, alpha, kept.what, found, before)


def _line(config: Config, arm: Arm, alpha: float, evaluated: str, found: Outcome, before: float) -> Line:
    low, high = found.interval(config.seed)
    return Line(
        arm=arm.name,
        group=arm.group,
        matched=arm.matched,
        alpha=alpha,
        evaluated=evaluated,
        log_odds=found.log_odds,
        low=low,
        high=high,
        shift=found.log_odds - before,
        off_target=float(found.off_target_B.mean()),
        nll=None if found.nll_B is None else float(np.mean(found.nll_B)),
    )
