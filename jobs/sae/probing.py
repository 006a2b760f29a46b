"""Sparse probing: how much of a label do the one, two or five features say that differ most by it?

N documents of the half that is fitted on, M of the half that is scored, D inputs (features or dimensions), P problems
over the same documents (the true answers, then shuffled ones).

For each value of a label: of as many documents with it as without, the k features whose mean differs most in absolute
value are chosen, and a logistic probe of these k is scored on other documents (Gurnee et al. 2023, 2305.01610, as in
SAEBench, 2503.09532). All features and the hidden state itself say how far a linear probe gets at all, and the k most
different dimensions of the hidden state what a dictionary must beat.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from jobs.core.context import Metric
from jobs.sae.binary import accuracy, balanced, fit_planes, fit_small
from jobs.sae.pooled import Concept, Documents
from storage.value import Value

KS = (1, 2, 5)
"""Features of a sparse probe."""
_SHUFFLES = 3
"""Shuffled answers that the null averages over."""


class Score(Value):
    """Accuracy on documents that the probe did not see."""

    accuracy: float
    """Mean over the values of the label; half of the documents have the value, so the majority gives 0.5."""
    null: float
    """The same for answers shuffled between documents, features chosen anew."""


class SparseProbing(Value):
    """One label, its values' accuracies averaged."""

    label: str
    """Of the documents."""
    values: tuple[str, ...]
    """Those asked about."""
    sparse: dict[int, Score]
    """By number of features."""
    sparse_states: dict[int, Score]
    """By number of dimensions of the hidden state."""
    codes: Score
    """All features."""
    states: Score
    """The whole hidden state."""


def sparse_probing(documents: Documents) -> tuple[SparseProbing, ...]:
    """Of every label that has a value to ask about."""
    asked = ((label, documents.concepts(label)) for label in documents.labels)
    return tuple(_of_label(documents, label, concepts) for label, concepts in asked if concepts)


def _of_label(documents: Documents, label: str, concepts: Sequence[Concept]) -> SparseProbing:
    found = [_Question(documents, concept) for concept in concepts]
    return SparseProbing(
        label=label,
        values=tuple(concept.value for concept in concepts),
        sparse=_by_k([one.of_few(documents.z_NF) for one in found]),
        sparse_states=_by_k([one.of_few(documents.x_ND) for one in found]),
        codes=_mean([one.of_all(documents.z_NF) for one in found]),
        states=_mean([one.of_all(documents.x_ND) for one in found]),
    )


class _Question:
    """A concept on balanced halves: its answers, and shuffled ones."""

    def __init__(self, documents: Documents, concept: Concept) -> None:
        random = np.random.default_rng(documents.seed)
        halves = (balanced(concept.has_N, half, len(half), random) for half in documents.halves)
        self._seed = documents.seed
        self._train_N, self._test_M = (torch.from_numpy(half) for half in halves)
        self._has_PN, self._has_PM = (
            _shuffled(torch.from_numpy(concept.has_N)[half], random) for half in (self._train_N, self._test_M)
        )

    def of_few(self, inputs: Tensor) -> dict[int, Score]:
        """Probes of the k inputs that differ most, for every k."""
        x_ND, x_MD = inputs[self._train_N], inputs[self._test_M]
        found: dict[int, list[float]] = {k: [] for k in KS}
        for has_N, has_M in zip(self._has_PN, self._has_PM, strict=True):
            gap_D = (x_ND[has_N].mean(0) - x_ND[~has_N].mean(0)).abs()
            order_K = gap_D.topk(min(max(KS), len(gap_D))).indices
            for k, accuracies in found.items():
                plane = fit_small(x_ND[:, order_K[:k]], has_N)
                accuracies.append(accuracy(plane.scores(x_MD[:, order_K[:k]]), has_M))
        return {k: _score(accuracies) for k, accuracies in found.items()}

    def of_all(self, inputs: Tensor) -> Score:
        """A probe of all inputs."""
        planes = fit_planes(inputs[self._train_N], self._has_PN, self._seed)
        x_MD = inputs[self._test_M]
        pairs = zip(planes, self._has_PM, strict=True)
        return _score([accuracy(plane.scores(x_MD), has_M) for plane, has_M in pairs])


def _shuffled(has_N: Tensor, random: np.random.Generator) -> Tensor:
    """The answers, and below them shuffled ones: bool [P, N]."""
    orders = (torch.from_numpy(random.permutation(len(has_N))) for _ in range(_SHUFFLES))
    return torch.stack([has_N, *(has_N[order_N] for order_N in orders)])


def _score(accuracies: Sequence[float]) -> Score:
    """Of the true answers and the shuffled ones, in this order."""
    return Score(accuracy=accuracies[0], null=float(np.mean(accuracies[1:])))


def _by_k(found: Sequence[dict[int, Score]]) -> dict[int, Score]:
    return {k: _mean([one[k] for one in found]) for k in KS}


def _mean(scores: Sequence[Score]) -> Score:
    return Score(
        accuracy=float(np.mean([score.accuracy for score in scores])),
        null=float(np.mean([score.null for score in scores])),
    )


def metrics(found: Sequence[SparseProbing]) -> tuple[Metric, ...]:
    """Every label's accuracies: of few features, of few dimensions, and of all."""
    return tuple(metric for one in found for metric in _metrics(one))


def _metrics(one: SparseProbing) -> list[Metric]:
    name = f"sparse_probing.{one.label}"
    rows = [(f"{name}.k{k}", score, f"probe of the {k} most different features") for k, score in one.sparse.items()]
    rows += [(f"{name}.states_k{k}", s, f"the same of {k} dimensions") for k, s in one.sparse_states.items()]
    rows.append((f"{name}.codes", one.codes, "probe of all features"))
    rows.append((f"{name}.states", one.states, "probe of the hidden state: what a linear probe can reach"))
    about = "accuracy, majority 0.5; null: shuffled labels"
    return [Metric(name=n, value=s.accuracy, null=s.null, about=f"{what}; {about}") for n, s, what in rows]


def notes(found: Sequence[SparseProbing]) -> tuple[str, ...]:
    """How it was done, if it was."""
    if not found:
        return ()
    asked = "; ".join(f"{one.label}: {', '.join(one.values)}" for one in found)
    return (
        "Sparse probing is of means over held-out documents, half to choose and fit, half to score, as many with a "
        f"value as without; averaged over the values ({asked}).",
    )
