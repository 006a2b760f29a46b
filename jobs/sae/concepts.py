"""Targeted perturbation: does zeroing the features of one concept hurt its probe and no other?

N documents, M of the half that is scored, D dimensions of a hidden state, F features, U concepts, S features that are
zeroed.

TPP as in SAEBench (Karvonen et al. 2025, 2503.09532, after 2411.18895). A linear probe for each concept; a feature's
effect on it is the mean activation with the concept less that without, times probe . atom; the n features of largest
effect are zeroed on every token and the SAE's error is added back; score = drop of the concept's own accuracy less the
mean drop of the others'. A mean difference below 0 counts as 0, but for a label of two values, which SAEBench has none
of: there a feature of the opposite value speaks for the concept too. Unlike there, no feature of effect 0 or less is
zeroed to make up the number. What a probe says changes by -z_S (A_S . w): the same number as zeroing, decoding and
pooling every token anew, for all of that is linear.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from jobs.core.context import Metric
from jobs.sae.binary import Plane, accuracy, balanced, fit_planes
from jobs.sae.pooled import Concept, Documents
from storage.value import Value

NS = (2, 5, 10, 20, 50, 100, 500)
"""Features that are zeroed, clipped at the width."""
_DRAWS = 5
"""Draws of random live features that the null averages over."""


class Drop(Value):
    """What zeroing n features does to accuracies, averaged over the concepts of a label."""

    own: float
    """Drop of the concept whose features they are: the more the better."""
    others: float
    """Mean drop of the other concepts: 0 is best."""
    null: float
    """`own` - `others` for as many random live features."""

    @property
    def score(self) -> float:
        """TPP: 0.5 at best, since accuracies start from balanced halves."""
        return self.own - self.others


class TargetedPerturbation(Value):
    """TPP of one label."""

    label: str
    """Of the documents."""
    others: str
    """What the other concepts are, in words."""
    clean: float
    """Mean accuracy of the probes before anything is zeroed."""
    drops: dict[int, Drop]
    """By number of features zeroed."""


class Zeroing:
    """What probes say of some documents once features are zeroed on all their tokens."""

    def __init__(self, documents: Documents, at_M: Tensor, atoms_FD: Tensor, planes: Sequence[Plane]) -> None:
        """Of the documents at `at_M`."""
        W_DU = torch.stack([plane.w_D for plane in planes], 1)
        self.clean_MU = torch.stack([plane.scores(documents.x_ND[at_M]) for plane in planes], 1)
        self._along_FU = atoms_FD @ W_DU
        self._z_FM = documents.z_NF[at_M].T.contiguous()  # features are gathered, many times over
        self._live_F = self._z_FM.any(1).nonzero().squeeze(1)
        self._seed = documents.seed

    def scores(self, features_S: Tensor) -> Tensor:
        """Of each document by each probe, [M, U]."""
        return self.clean_MU - self._z_FM[features_S].T @ self._along_FU[features_S]

    def random(self, n: int) -> list[Tensor]:
        """Draws of up to n features that are not always silent."""
        seeds = range(self._seed, self._seed + _DRAWS)
        orders = (torch.randperm(len(self._live_F), generator=torch.Generator().manual_seed(seed)) for seed in seeds)
        return [self._live_F[order[:n]] for order in orders]


class _Probed(NamedTuple):
    """A concept's probe, and its features by effect."""

    concept: Concept
    plane: Plane
    ranked_F: Tensor
    """Those that speak for the concept, the strongest first."""


def sizes(width: int) -> tuple[int, ...]:
    """Numbers of features to zero."""
    return tuple(sorted({min(n, width) for n in NS}))


def tpp(documents: Documents, atoms_FD: Tensor) -> tuple[tuple[TargetedPerturbation, ...], tuple[str, ...]]:
    """Of every label that has other concepts to compare with, and why not of the rest; atoms in the rows' own units.

    A label of three values or more is compared with its own other values, one of two with the values of other labels.
    """
    probed = {
        label: [_probed(documents, atoms_FD, concept) for concept in documents.concepts(label)]
        for label in documents.labels
    }
    found, missing = [], []
    for label, own in probed.items():
        rest = [one for name, some in probed.items() if name != label for one in some]
        inside = len(own) > 1
        if own and (inside or rest):
            others = "its other values" if inside else "values of other labels"
            found.append(_of_label(documents, atoms_FD, label, own, [] if inside else rest, others))
        else:
            missing.append(f"No TPP for {label}: it leaves one concept, and no other label has one to compare with.")
    return tuple(found), tuple(missing)


def _probed(documents: Documents, atoms_FD: Tensor, concept: Concept) -> _Probed:
    """Probe and ranking come from one half, as many documents with the concept as without."""
    fitted_N = torch.from_numpy(_draw(documents, concept, documents.halves[0]))
    has_N = torch.from_numpy(concept.has_N)
    plane = fit_planes(documents.x_ND[fitted_N], has_N[fitted_N][None], documents.seed)[0]
    z_NF, yes_N = documents.z_NF[fitted_N], has_N[fitted_N]
    gap_F = z_NF[yes_N].mean(0) - z_NF[~yes_N].mean(0)
    effect_F = (gap_F if concept.opposed else gap_F.clamp(min=0)) * (atoms_FD @ plane.w_D)
    return _Probed(concept, plane, effect_F.argsort(descending=True, stable=True)[: int((effect_F > 0).sum())])


def _draw(documents: Documents, concept: Concept, half: np.ndarray) -> np.ndarray:
    return balanced(concept.has_N, half, len(half), np.random.default_rng(documents.seed))


class _Accuracies:
    """Of every concept's probe on its own balanced documents of the scored half."""

    def __init__(self, documents: Documents, atoms_FD: Tensor, everyone: Sequence[_Probed]) -> None:
        test_N = documents.halves[1]
        self.zeroing = Zeroing(documents, torch.from_numpy(test_N), atoms_FD, [one.plane for one in everyone])
        place_N = np.full(len(documents.x_ND), -1)
        place_N[test_N] = np.arange(len(test_N))
        drawn = [_draw(documents, one.concept, test_N) for one in everyone]
        self._places = [torch.from_numpy(place_N[at_N]) for at_N in drawn]
        self._has = [torch.from_numpy(one.concept.has_N[at]) for one, at in zip(everyone, drawn, strict=True)]
        self.clean_U = self._of(self.zeroing.clean_MU)

    def _of(self, scores_MU: Tensor) -> np.ndarray:
        pairs = zip(scores_MU.unbind(1), self._places, self._has, strict=True)
        return np.array([accuracy(scores_M[places], has) for scores_M, places, has in pairs])

    def drops(self, target: int, features_S: Tensor) -> tuple[float, float]:
        """Of the target once these are zeroed, and of the others on average."""
        drop_U = self.clean_U - self._of(self.zeroing.scores(features_S))
        return float(drop_U[target]), float(np.delete(drop_U, target).mean())


def _of_label(
    documents: Documents, atoms_FD: Tensor, label: str, own: Sequence[_Probed], rest: Sequence[_Probed], others: str
) -> TargetedPerturbation:
    all_of = _Accuracies(documents, atoms_FD, [*own, *rest])
    found = {}
    for n in sizes(len(atoms_FD)):
        true = [all_of.drops(target, one.ranked_F[:n]) for target, one in enumerate(own)]
        null = [
            all_of.drops(target, features_S)
            for target, one in enumerate(own)
            for features_S in all_of.zeroing.random(min(n, len(one.ranked_F)))
        ]
        (on, off), (on_null, off_null) = np.mean(true, axis=0), np.mean(null, axis=0)
        found[n] = Drop(own=float(on), others=float(off), null=float(on_null - off_null))
    clean = float(all_of.clean_U[: len(own)].mean())
    return TargetedPerturbation(label=label, others=others, clean=clean, drops=found)


def metrics(found: Sequence[TargetedPerturbation]) -> tuple[Metric, ...]:
    """Every label's score for every number of features."""
    about = (
        "drop of a value's own probe less that of others when its n strongest features are zeroed; null: n random live"
    )
    return tuple(
        Metric(
            name=f"tpp.{one.label}.n{n}",
            value=drop.score,
            null=drop.null,
            about=f"{about} (own {drop.own:.3f}, others {drop.others:.3f})",
        )
        for one in found
        for n, drop in one.drops.items()
    )


def notes(found: Sequence[TargetedPerturbation], missing: Sequence[str]) -> tuple[str, ...]:
    """How good the probes were, what the others are, and which labels have none."""
    said = tuple(
        f"TPP of {one.label}: probes of mean hidden states, right {one.clean:.1%} of the time before zeroing; "
        f"the others are {one.others}; fewer than n features are zeroed where fewer speak for a value."
        for one in found
    )
    return said + tuple(missing)
