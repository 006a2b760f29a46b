"""Can what is said of a feature be used? A judge explains it from excerpts, then says in which others it fires.

Any object with the two methods of `Judge` will do, a language model behind a service too. The built-in judge needs
none: it explains by the tokens or n-grams that best tell where the feature fires in the excerpts, and detects by
looking for them. Explanations are made of excerpts from one half of the held-out documents, and scored on the other:
by balanced accuracy on excerpts where the feature fires, drawn from all bands of its activations, and others where it
does not. The null gives every feature the explanation of another.

M features.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

Tokens = tuple[str, ...]
_LONGEST = 3
_MOST_MEMBERS = 32
"""In an explanation."""
_ONE_OF = "fires on the last token of: "
FEWEST = 4
"""Excerpts of each kind that a feature needs to be scored."""


@dataclass(frozen=True)
class Excerpt:
    """A few tokens in a row, and how loudly the feature speaks at each."""

    tokens: Tokens
    activations: tuple[float, ...]


class Judge(Protocol):
    """Explains a feature, and says from the explanation alone where it fires."""

    def explain(self, excerpts: Sequence[Excerpt]) -> str:
        """What the feature fires on, given excerpts in which it does."""

    def detect(self, explanation: str, excerpts: Sequence[Tokens]) -> Sequence[float]:
        """For each excerpt how sure it is, from 0 to 1, that a feature so explained fires somewhere in it."""


@dataclass(frozen=True)
class Evidence:
    """What a judge is given of one feature, and what its explanation is scored on."""

    shown: tuple[Excerpt, ...]
    """The feature fires in each; the judge explains them."""
    firing: tuple[Tokens, ...]
    """The feature fires in each, in documents of which nothing is shown."""
    silent: tuple[Tokens, ...]
    """The feature fires nowhere in any."""

    @property
    def enough(self) -> bool:
        """Whether there are excerpts enough of each kind."""
        return min(len(self.shown), len(self.firing), len(self.silent)) >= FEWEST


@dataclass(frozen=True)
class Judged:
    """What a judge said of each feature that could be scored, and what that was worth."""

    features_M: np.ndarray
    explanations: tuple[str, ...]
    accuracy_M: np.ndarray
    """Mean of the shares that are right among firing and among silent excerpts: a coin gives 1/2."""
    null_M: np.ndarray
    """The same with the explanation of another feature; NaN where there is no other."""


def interpret(judge: Judge, evidence: Mapping[int, Evidence], seed: int) -> Judged:
    """Let `judge` explain every feature of which there is evidence enough, and score what it says."""
    known = {feature: one for feature, one in sorted(evidence.items()) if one.enough}
    explanations = tuple(judge.explain(one.shown) for one in known.values())
    accuracy = [_accuracy(judge, said, one, seed) for said, one in zip(explanations, known.values(), strict=True)]
    others = zip(_others(len(known), seed), known.values(), strict=True)
    null = [_accuracy(judge, explanations[other], one, seed) for other, one in others]
    null = null if len(known) > 1 else [np.nan] * len(known)
    return Judged(np.array(list(known), np.int64), explanations, np.array(accuracy), np.array(null))


def _others(n: int, seed: int) -> np.ndarray:
    """Another place for every place, if there are two."""
    ring = np.random.default_rng(seed).permutation(n)
    others = np.empty(n, np.int64)
    others[ring] = np.roll(ring, 1)
    return others


def _accuracy(judge: Judge, explanation: str, evidence: Evidence, seed: int) -> float:
    """Of excerpts handed over in one call and in random order, so that nothing but their tokens tells the kinds."""
    excerpts = [*evidence.firing, *evidence.silent]
    order = np.random.default_rng(seed).permutation(len(excerpts))
    said = np.empty(len(excerpts), bool)
    said[order] = np.asarray(judge.detect(explanation, [excerpts[at] for at in order]), np.float64) > 0.5
    firing, silent = said[: len(evidence.firing)], said[len(evidence.firing) :]
    return float((firing.mean() + 1 - silent.mean()) / 2)


class TokenJudge:
    """Explains by n-grams, detects by finding them; the same excerpts always give the same answer."""

    def explain(self, excerpts: Sequence[Excerpt]) -> str:
        """The n-grams of one length that best tell, by F1 over the tokens shown, where the feature fires.

        Only n-grams that end on firing tokens in two excerpts or more can be members; of equals the shorter win.
        """
        best: tuple[float, list[Tokens]] = (0.0, [])
        for n in range(1, _LONGEST + 1):
            found = _best_grams(excerpts, n)
            best = found if found[0] > best[0] else best
        return _ONE_OF + json.dumps(best[1], ensure_ascii=False)

    def detect(self, explanation: str, excerpts: Sequence[Tokens]) -> Sequence[float]:
        """1 where an n-gram of the explanation stands."""
        grams = {tuple(gram) for gram in json.loads(explanation.removeprefix(_ONE_OF))}
        lengths = {len(gram) for gram in grams}
        return [float(any(not grams.isdisjoint(_grams(tokens, n)) for n in lengths)) for tokens in excerpts]


def _best_grams(excerpts: Sequence[Excerpt], n: int) -> tuple[float, list[Tokens]]:
    """F1 and members of the best set of n-grams: those of highest precision, as many as pay."""
    firing = sum(a > 0 for excerpt in excerpts for a in excerpt.activations)
    count: Counter[Tokens] = Counter()
    hits: Counter[Tokens] = Counter()
    support: Counter[Tokens] = Counter()
    for excerpt in excerpts:
        grams = _grams(excerpt.tokens, n)
        hit = [gram for gram, a in zip(grams, excerpt.activations[n - 1 :], strict=True) if a > 0]
        count.update(grams)
        hits.update(hit)
        support.update(set(hit))
    able = [gram for gram in hits if support[gram] > 1]
    able.sort(key=lambda gram: (-hits[gram] / count[gram], -hits[gram], gram))
    best, members, caught, alarms = 0.0, 0, 0, 0
    for place, gram in enumerate(able[:_MOST_MEMBERS], 1):
        caught, alarms = caught + hits[gram], alarms + count[gram]
        if (f1 := 2 * caught / (alarms + firing)) > best:
            best, members = f1, place
    return best, able[:members]


def _grams(tokens: Tokens, n: int) -> list[Tokens]:
    """All runs of n tokens, in order, without the space around a token: the first of a text has none."""
    plain = tuple(token.strip() or token for token in tokens)
    return [plain[at - n : at] for at in range(n, len(plain) + 1)]
