"""All that is known of features, put together: one line each in a table, more of those that were chosen.

F features, M chosen features, D dimensions of a hidden state, K neighbours, S members of a token set.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from jobs.core.context import Metric
from jobs.sae.detectors import Detector, Detectors, detect
from jobs.sae.examples import Examples, gather
from jobs.sae.features import Purity
from jobs.sae.interpret import Judge, Judged, interpret
from jobs.sae.logit_effects import LogitEffects, Unembedding, logit_effects
from jobs.sae.neighbours import Near, by_angle, by_firing
from jobs.sae.observed import Observed
from jobs.sae.windows import Encode, pieces, shown_tokens, windows
from storage.index import TokenIndex

_ABOUT_SET = (
    "how well the best set of tokens tells where a feature fires, on documents that did not choose it; null: tokens "
    "shuffled between rows"
)
_ABOUT_NGRAM = "the same of the best single n-gram, n = 1 to 3"
_ABOUT_JUDGED = (
    "balanced accuracy with which a judge tells from its explanation where a feature fires; null: explanations of "
    "other features"
)
_ABOUT_PEAK = (
    "strongest direct effect of a feature on a token's logit, in standard deviations over the vocabulary; null: random "
    "directions"
)
NEIGHBOURS = 8
MEMBERS = 10
"""Of a token set, shown."""
TOKENS = 10
"""Promoted, and as many suppressed, shown."""


@dataclass(frozen=True)
class Portraits:
    """What is known of every feature, and what of the chosen ones alone."""

    observed: Observed
    chosen: Mapping[int, str]
    """Why each feature was chosen."""
    detectors: Detectors
    angle: Near
    """Of all features."""
    firing: Near
    """Of the chosen ones, as are the rest."""
    effects: LogitEffects | None
    strings: Sequence[str]
    """The tokens that effects are on."""
    examples: Examples
    judged: Judged


@torch.no_grad()
def portray(
    observed: Observed,
    chosen: Mapping[int, str],
    atoms_FD: Tensor,
    held_H: np.ndarray,
    encode: Encode,
    unembed: Unembedding | None,
    judge: Judge,
) -> Portraits:
    """Look closely at the `chosen` features; `atoms_FD` in units of the stored rows that they rebuild."""
    features_M = np.array(list(chosen), np.int64)
    examples = gather(observed, features_M, held_H, encode)
    effects = None if unembed is None else logit_effects(atoms_FD[features_M], unembed.table_VD, TOKENS, observed.seed)
    return Portraits(
        observed=observed,
        chosen=chosen,
        detectors=detect(observed.firings),
        angle=by_angle(atoms_FD, np.arange(observed.width), NEIGHBOURS),
        firing=by_firing(observed.firings, features_M, NEIGHBOURS),
        effects=effects,
        strings=() if unembed is None else unembed.strings,
        examples=examples,
        judged=interpret(judge, examples.evidence, observed.seed),
    )


def readable(portraits: Portraits) -> tuple[Metric, ...]:
    """How far features can be read, on average; each number beside its null."""
    detectors, judged, effects = portraits.detectors, portraits.judged, portraits.effects
    metrics = []
    if (known_F := ~np.isnan(detectors.token_set.f1_F)).any():
        sets, one = detectors.token_set, (detectors.ngram_f1_F, detectors.ngram_null_F)
        values = float(sets.f1_F[known_F].mean()), float(sets.null_F[known_F].mean())
        metrics.append(Metric(name="token_set_f1", value=values[0], null=values[1], about=_ABOUT_SET))
        values = float(one[0][known_F].mean()), float(one[1][known_F].mean())
        metrics.append(Metric(name="ngram_f1", value=values[0], null=values[1], about=_ABOUT_NGRAM))
    if len(judged.features_M) > 1:
        values = float(judged.accuracy_M.mean()), float(judged.null_M.mean())
        metrics.append(Metric(name="detection_accuracy", value=values[0], null=values[1], about=_ABOUT_JUDGED))
    if effects is not None:
        values = float(effects.peak_M.mean()), effects.null_peak
        metrics.append(Metric(name="logit_peak", value=values[0], null=values[1], about=_ABOUT_PEAK))
    return tuple(metrics)


def features_table(portraits: Portraits, density_F: np.ndarray, pure: Purity) -> pa.Table:
    """A line per feature; nothing where it fires too rarely, or where it was not chosen for a closer look.

    The histogram counts activations by half octaves, of which the first begins at 2^-20.
    """
    observed, detectors, judged = portraits.observed, portraits.detectors, portraits.judged
    width, tokens = observed.width, observed.tokens
    leaders = observed.leaders.entries
    features, firsts = np.unique(leaders.features_C, return_index=True)
    top_F, token_F = np.zeros(width, np.float32), np.full(width, None, object)
    top_F[features] = leaders.values_C[firsts]
    token_F[features] = shown_tokens(tokens, leaders.rows_C[firsts])
    sets, known_F = detectors.token_set, ~np.isnan(detectors.token_set.f1_F)
    up, down = promoted(portraits), suppressed(portraits)
    return pa.table(
        {
            "feature": pa.array(np.arange(width)),
            "density": pa.array(density_F),
            "max_activation": pa.array(top_F),
            "strongest_token": pa.array(token_F, pa.string()),
            "purity": _numbers(_spread(width, pure.features_F, pure.shares_F)),
            "token_set": pa.array([grams(sets, f, tokens) if known_F[f] else None for f in range(width)], _STRINGS),
            "token_set_size": pa.array(sets.sizes_F, mask=~known_F),
            "token_set_f1": _numbers(sets.f1_F),
            "token_set_null_f1": _numbers(sets.null_F),
            "ngram": pa.array([ngram(detectors, f, tokens) if known_F[f] else None for f in range(width)], pa.string()),
            "ngram_length": pa.array(detectors.best_F + 1, mask=~known_F),
            "ngram_f1": _numbers(detectors.ngram_f1_F),
            "ngram_null_f1": _numbers(detectors.ngram_null_F),
            "neighbours": _lists(portraits.angle.features_MK, pa.int64()),
            "cosines": _lists(portraits.angle.closeness_MK, pa.float64()),
            "explanation": _of(
                width, dict(zip(judged.features_M.tolist(), judged.explanations, strict=True)), pa.string()
            ),
            "detection_accuracy": _numbers(_spread(width, judged.features_M, judged.accuracy_M)),
            "detection_null": _numbers(_spread(width, judged.features_M, judged.null_M)),
            "promoted": _of(width, {f: [token for token, _ in found] for f, found in up.items()}, _STRINGS),
            "suppressed": _of(width, {f: [token for token, _ in found] for f, found in down.items()}, _STRINGS),
            "histogram": _lists(observed.bands.counts_FH, pa.int32()),
        }
    )


_STRINGS = pa.list_(pa.string())


def grams(detector: Detector, feature: int, tokens: TokenIndex) -> list[str]:
    """The members of a feature's detector that catch most, as text."""
    rows_S = detector.members(feature, MEMBERS)
    rows_SW = windows(tokens, rows_S, detector.length - 1, 0)
    if detector.length == 1:
        return shown_tokens(tokens, rows_S)
    return ["".join(pieces(tokens, rows_W)) for rows_W in rows_SW]


def ngram(detectors: Detectors, feature: int, tokens: TokenIndex) -> str | None:
    """The best n-gram of a feature, as text."""
    return next(iter(grams(detectors.ngrams[detectors.best_F[feature]], feature, tokens)), None)


def promoted(portraits: Portraits) -> dict[int, list[tuple[str, float]]]:
    """The tokens that each chosen feature promotes most, and by how much."""
    if (effects := portraits.effects) is None:
        return {}
    return _named(portraits, effects.promoted_MR, effects.promotion_MR)


def suppressed(portraits: Portraits) -> dict[int, list[tuple[str, float]]]:
    """The tokens that each chosen feature suppresses most, and by how much."""
    if (effects := portraits.effects) is None:
        return {}
    return _named(portraits, effects.suppressed_MR, effects.suppression_MR)


def _named(portraits: Portraits, rows_MR: np.ndarray, effects_MR: np.ndarray) -> dict[int, list[tuple[str, float]]]:
    return {
        feature: [(portraits.strings[row], float(effect)) for row, effect in zip(rows, effects, strict=True)]
        for feature, rows, effects in zip(portraits.chosen, rows_MR.tolist(), effects_MR.tolist(), strict=True)
    }


def _spread(width: int, features_M: np.ndarray, values_M: np.ndarray) -> np.ndarray:
    """Values of some features among all, NaN elsewhere."""
    values_F = np.full(width, np.nan)
    values_F[features_M] = values_M
    return values_F


def _numbers(values_F: np.ndarray) -> pa.Array:
    return pa.array(values_F, from_pandas=True)


def _of(width: int, values: Mapping[int, object], kind: pa.DataType) -> pa.Array:
    return pa.array([values.get(feature) for feature in range(width)], kind)


def _lists(values_FK: np.ndarray, kind: pa.DataType) -> pa.Array:
    n, k = values_FK.shape
    return pa.ListArray.from_arrays(np.arange(0, n * k + 1, k, dtype=np.int32), pa.array(values_FK.reshape(-1), kind))
