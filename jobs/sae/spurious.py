"""Removal of a spurious cue: a probe that learnt the wrong thing, mended by zeroing the features of that thing.

N documents of the half that is fitted on, M of the half that is scored, D dimensions of a hidden state, F features, S
features that are zeroed.

SCR as in SAEBench (Karvonen et al. 2025, 2503.09532, after SHIFT, 2403.19647). Two labels, wanted and spurious, of two
values each. A biased probe sees only documents where both are yes or both are no. The n features of largest
|mean difference x probe . atom| for an unbiased probe of the spurious label are zeroed, the SAE's error added back, and
the biased probe is scored on documents where the labels are independent:

    SCR = (acc after zeroing - acc before) / (acc of a probe trained on independent labels - acc before)

SAEBench keeps, of the two directions, that in which the biased probe is worse; both are given here.
"""

from collections.abc import Sequence
from itertools import permutations

import numpy as np
import torch
from torch import Tensor

from jobs.core.context import Metric
from jobs.sae.binary import Plane, accuracy, fit_planes
from jobs.sae.concepts import Zeroing, sizes
from jobs.sae.pooled import Documents
from storage.value import Value

FEWEST_TOGETHER = 10
"""Documents that each half needs of every combination of the two labels."""
MOST_PAIRS = 6
"""Ordered pairs of labels, at most."""
LEAST_BIAS = 0.05
"""How much worse the biased probe must be than the unbiased one: a smaller gap drowns in the noise of accuracies."""


class Mended(Value):
    """After n features are zeroed."""

    score: float
    """SCR: 0 if nothing changed, 1 if the biased probe is as good as the unbiased one."""
    null: float
    """The same for as many random live features."""


class Removal(Value):
    """SCR of one ordered pair of labels."""

    wanted: str
    """What the probe is scored on."""
    spurious: str
    """What goes along with it where the biased probe learns, and whose features are zeroed."""
    clean: float
    """Accuracy of a probe trained on independent labels."""
    biased: float
    """Accuracy of the biased probe."""
    mended: dict[int, Mended]
    """By number of features zeroed."""


def scr(documents: Documents, atoms_FD: Tensor) -> tuple[tuple[Removal, ...], tuple[str, ...]]:
    """Of every ordered pair of labels that allows it, and why not of the rest; atoms in the rows' own units.

    Of a label with more than two values, the two most common ones are taken.
    """
    if len(documents.labels) < 2:
        return (), ("No SCR: it takes two labels that can be made to go together.",)
    pairs = list(permutations(documents.labels, 2))
    found, missing = [], []
    if len(pairs) > MOST_PAIRS:
        missing.append(f"SCR is tried for {MOST_PAIRS} of the {len(pairs)} ordered pairs of labels, the first ones.")
    for wanted, spurious in pairs[:MOST_PAIRS]:
        one = _of_pair(documents, atoms_FD, wanted, spurious)
        if isinstance(one, Removal):
            found.append(one)
        else:
            missing.append(one)
    return tuple(found), tuple(missing)


class _Quadrants:
    """Documents of one half by the two labels, in random order."""

    def __init__(self, wanted_N: np.ndarray, spurious_N: np.ndarray, half: np.ndarray, seed: int) -> None:
        order = np.random.default_rng(seed).permutation(half)
        self._of = {
            (yes, cue): order[(wanted_N[order] == yes) & (spurious_N[order] == cue)] for yes in (0, 1) for cue in (0, 1)
        }
        self.fewest = min(map(len, self._of.values()))

    @property
    def independent(self) -> Tensor:
        """As many of each combination."""
        return _joined(*(some[: self.fewest] for some in self._of.values()))

    @property
    def together(self) -> Tensor:
        """Both yes or both no, as many of each; as many in all as the independent ones, where there are enough."""
        n = min(2 * self.fewest, len(self._of[0, 0]), len(self._of[1, 1]))
        return _joined(self._of[0, 0][:n], self._of[1, 1][:n])


def _of_pair(documents: Documents, atoms_FD: Tensor, wanted: str, spurious: str) -> Removal | str:
    wanted_N, spurious_N = (_two_values(documents.labels[label]) for label in (wanted, spurious))
    train, test = (_Quadrants(wanted_N, spurious_N, half, documents.seed) for half in documents.halves)
    if min(train.fewest, test.fewest) < FEWEST_TOGETHER:
        return (
            f"No SCR of {wanted} with {spurious}: a combination of their two most common values has only "
            f"{min(train.fewest, test.fewest)} documents in a half, and it takes {FEWEST_TOGETHER}."
        )
    has_N, cue_N = torch.from_numpy(wanted_N == 1), torch.from_numpy(spurious_N == 1)
    clean = _fit(documents, train.independent, has_N)
    biased = _fit(documents, train.together, has_N)
    ranked_F = _ranked(documents, atoms_FD, train.independent, cue_N)
    zeroing = Zeroing(documents, test.independent, atoms_FD, [clean, biased])
    has_M = has_N[test.independent]
    best, before = (accuracy(scores_M, has_M) for scores_M in zeroing.clean_MU.unbind(1))
    if best - before < LEAST_BIAS:
        return (
            f"No SCR of {wanted} with {spurious}: a probe trained where they go together is right {before:.1%} of the "
            f"time, one trained where they do not {best:.1%}, so there is no cue to remove."
        )

    def mended(features_S: Tensor) -> float:
        after = accuracy(zeroing.scores(features_S)[:, 1], has_M)
        return (after - before) / (best - before)

    found = {}
    for n in sizes(len(atoms_FD)):
        null = float(np.mean([mended(features_S) for features_S in zeroing.random(min(n, len(ranked_F)))]))
        found[n] = Mended(score=mended(ranked_F[:n]), null=null)
    return Removal(wanted=wanted, spurious=spurious, clean=best, biased=before, mended=found)


def _two_values(texts_N: np.ndarray) -> np.ndarray:
    """1 for the most common value, 0 for the next, -1 for the rest."""
    values, counts = np.unique(texts_N, return_counts=True)
    common = values[np.argsort(-counts, kind="stable")]
    found: np.ndarray = np.select([texts_N == common[0], texts_N == common[1]], [1, 0], -1)
    return found


def _fit(documents: Documents, at_N: Tensor, has_N: Tensor) -> Plane:
    return fit_planes(documents.x_ND[at_N], has_N[at_N][None], documents.seed)[0]


def _ranked(documents: Documents, atoms_FD: Tensor, at_N: Tensor, has_N: Tensor) -> Tensor:
    """Features that tell the spurious label apart, either way, the strongest first."""
    z_NF, yes_N = documents.z_NF[at_N], has_N[at_N]
    gap_F = z_NF[yes_N].mean(0) - z_NF[~yes_N].mean(0)
    effect_F = (gap_F * (atoms_FD @ _fit(documents, at_N, has_N).w_D)).abs()
    return effect_F.argsort(descending=True, stable=True)[: int((effect_F > 0).sum())]


def _joined(*parts: np.ndarray) -> Tensor:
    return torch.from_numpy(np.concatenate(parts))


def metrics(found: Sequence[Removal]) -> tuple[Metric, ...]:
    """Every pair's score for every number of features."""
    about = "share of a spurious cue's harm undone by zeroing its n strongest features; null: n random live ones"
    return tuple(
        Metric(
            name=f"scr.{one.wanted}.without.{one.spurious}.n{n}",
            value=mended.score,
            null=mended.null,
            about=f"{about} (accuracy {one.biased:.3f} before, {one.clean:.3f} without the cue)",
        )
        for one in found
        for n, mended in one.mended.items()
    )


def notes(found: Sequence[Removal], missing: Sequence[str]) -> tuple[str, ...]:
    """How to read it, and which pairs have none."""
    if not found:
        return tuple(missing)
    read = (
        "SCR is of mean hidden states of held-out documents; a zeroed feature moves a probe's threshold too, so where "
        "only one value of a label has a feature, zeroing it can leave the biased probe as wrong as before."
    )
    return (read, *missing)
