"""The probes of one site on the documents they never saw, beside their shuffled-label null.

H held-out examples, V and T of them validation and test, M test documents, D width, C classes, Q bins.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import softmax

from jobs.probe.evaluate import (
    Reliability,
    accuracies,
    accuracy_of,
    class_metrics,
    class_sums,
    clipped,
    confusion,
    fit_temperature,
    number_sums,
    r2_of,
)
from jobs.probe.fit import Fit, Problem, SiteFit
from jobs.probe.targets import Labels
from storage.site import Site


@dataclass(frozen=True)
class Held:
    """The held-out examples, in the order of `SiteFit.x_HD`."""

    at_H: np.ndarray
    """Number of each among all examples."""
    test_H: np.ndarray
    """True for test, False for validation."""
    owner_H: np.ndarray
    """Test document of each, numbered from 0; meaningless for validation."""
    n_documents: int
    """Test documents."""
    bin_H: np.ndarray | None
    """Which span of positions each is in; None where an example is a whole document."""


@dataclass(frozen=True)
class Probe:
    """What one probe does at one site, measured on test documents."""

    site: Site
    labels: Labels
    direction: tuple[np.ndarray, np.ndarray]
    """W [C, D] and b [C] for states as stored: scores are W x + b."""
    penalty: float
    """Chosen on validation documents."""
    temperature: float
    """1 for a number."""
    validation: float
    """The headline metric on validation documents: what sites are compared by."""
    metrics: dict[str, float]
    """The headline metric comes first: accuracy, or R2."""
    baseline: dict[str, float]
    """What needs no state: the commonest class of the training documents."""
    null: dict[str, tuple[float, float]]
    """Mean and standard deviation over shuffles."""
    sums: np.ndarray
    """What the headline metric of each test document is made of."""
    reliability: tuple[Reliability, Reliability] | None = None
    """Before and after the temperature."""
    confusion_CC: np.ndarray | None = None
    by_position: list[tuple[int, float, int]] = field(default_factory=list)
    """(bin, headline metric, examples) for labels of the document."""

    @property
    def statistic(self) -> Callable[[np.ndarray], np.ndarray]:
        return accuracy_of if self.labels.classes else r2_of

    @property
    def headline(self) -> str:
        """Name of the headline metric."""
        return next(iter(self.metrics))


def judge_site(site: Site, fitted: SiteFit, held: Held, train_N: np.ndarray, *, probabilistic: bool) -> list[Probe]:
    """A probe for each target; its shuffles become its null."""
    by_target: dict[str, list[tuple[Problem, Fit]]] = {}
    for problem, fit in fitted.fits:
        by_target.setdefault(problem.labels.name, []).append((problem, fit))
    probes = []
    for pairs in by_target.values():
        true, *null = _answers(fitted, pairs, held)
        if pairs[0][0].labels.classes:
            probes.append(_class_probe(site, fitted, pairs[0], true, null, held, train_N, probabilistic))
        else:
            probes.append(_number_probe(site, fitted, pairs[0], true, null, held))
    return probes


class Answers(NamedTuple):
    """What a probe says of the held-out examples that have an answer (n of the H)."""

    scores: np.ndarray
    """[n, C]"""
    y: np.ndarray
    """[n]"""
    test: np.ndarray
    """bool [n]"""
    places: np.ndarray
    """Place of each among the H."""


def _answers(fitted: SiteFit, pairs: Sequence[tuple[Problem, Fit]], held: Held) -> list[Answers]:
    """Of a target and its shuffles, with one product for all."""
    W_DK = torch.cat([fit.W_DC for _, fit in pairs], 1).float()
    b_K = torch.cat([fit.b_C for _, fit in pairs]).float()
    places = np.flatnonzero(pairs[0][0].labels.known_N[held.at_H])
    scores_HK = torch.addmm(b_K, fitted.x_HD, W_DK).cpu().numpy()[places]
    at, test = held.at_H[places], held.test_H[places]
    scores = np.split(scores_HK, len(pairs), axis=1)
    return [
        Answers(each, problem.y_N.numpy()[at], test, places) for each, (problem, _) in zip(scores, pairs, strict=True)
    ]


def _class_probe(
    site: Site,
    fitted: SiteFit,
    pair: tuple[Problem, Fit],
    true: Answers,
    null: Sequence[Answers],
    held: Held,
    train_N: np.ndarray,
    probabilistic: bool,
) -> Probe:
    labels, fit = pair[0].labels, pair[1]
    scores, y, test, places = true
    n_classes = len(labels.classes)
    temperature = fit_temperature(scores[~test], y[~test])
    as_fitted = softmax(scores[test], axis=1) if probabilistic else clipped(scores[test])
    metrics, confusion_CC, reliability = class_metrics(scores[test], as_fitted, y[test], temperature)
    right = (scores.argmax(1) == y).astype(np.float64)
    commonest = np.bincount(labels.y_N[train_N & labels.known_N]).argmax()
    return Probe(
        site=site,
        labels=labels,
        direction=_as_stored(fitted, fit),
        penalty=fit.penalty,
        temperature=temperature,
        validation=float(right[~test].mean()),
        metrics=metrics,
        baseline=accuracies(confusion(np.full(test.sum(), commonest), y[test], n_classes)),
        null=_spread([accuracies(confusion(s[t].argmax(1), a[t], n_classes)) for s, a, t, _ in null]),
        sums=class_sums(right[test], held.owner_H[places[test]], held.n_documents),
        reliability=reliability,
        confusion_CC=confusion_CC,
        by_position=_by_position(labels, held, places[test], class_sums, right[test], statistic=accuracy_of),
    )


def _number_probe(
    site: Site, fitted: SiteFit, pair: tuple[Problem, Fit], true: Answers, null: Sequence[Answers], held: Held
) -> Probe:
    labels, fit = pair[0].labels, pair[1]
    owner = held.owner_H[true.places[true.test]]
    sums = _number_sums(true, true.test, owner, held.n_documents)
    shuffled = [_number_sums(each, each.test, owner, held.n_documents).sum(0) for each in null]
    chosen_by = _number_sums(true, ~true.test, np.zeros((~true.test).sum(), np.int64), 1)
    error, n, _, _ = sums.sum(0)
    columns = true.scores[true.test, 0], true.y[true.test]
    return Probe(
        site=site,
        labels=labels,
        direction=_as_stored(fitted, fit),
        penalty=fit.penalty,
        temperature=1.0,
        validation=float(r2_of(chosen_by[0])),
        metrics={"r2": float(r2_of(sums.sum(0))), "rmse": float(np.sqrt(error / n))},
        baseline={},
        null=_spread([{"r2": float(r2_of(each))} for each in shuffled]),
        sums=sums,
        by_position=_by_position(labels, held, true.places[true.test], number_sums, *columns, statistic=r2_of),
    )


def _number_sums(answers: Answers, mine: np.ndarray, owner: np.ndarray, n_documents: int) -> np.ndarray:
    return number_sums(answers.scores[mine, 0], answers.y[mine], owner, n_documents)


def _as_stored(fitted: SiteFit, fit: Fit) -> tuple[np.ndarray, np.ndarray]:
    """Weights [C, D] and biases for states from which nothing was subtracted, float32."""
    b_C = fit.b_C - fitted.origin_D.double() @ fit.W_DC
    return fit.W_DC.T.float().cpu().numpy(), b_C.float().cpu().numpy()


def _spread(null: Sequence[dict[str, float]]) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation of each metric over shuffles."""
    if not null:
        return {}
    values = {name: np.array([each[name] for each in null]) for name in null[0]}
    return {name: (float(each.mean()), float(each.std(ddof=min(1, len(each) - 1)))) for name, each in values.items()}


def _by_position(
    labels: Labels,
    held: Held,
    places: np.ndarray,
    sums_of: Callable[..., np.ndarray],
    *columns: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray],
) -> list[tuple[int, float, int]]:
    """The headline metric in each span of positions; only for labels of the document, which have a when."""
    if held.bin_H is None or not labels.of_document:
        return []
    bins = held.bin_H[places]
    sums_Q = sums_of(*columns, bins, int(bins.max()) + 1)
    return [(q, float(statistic(sums)), int(sums[1])) for q, sums in enumerate(sums_Q) if sums[1] > 1]
