"""What features tell: how far their strongest rows are one token, and which labels of documents they tell apart.

B rows of a batch, F features, R leaders of a feature, A active entries, N documents, V values of a label.
"""

from dataclasses import dataclass

import numpy as np
import torch

from jobs.sae.codes import Codes
from jobs.sae.contexts import Leaders
from jobs.sae.metrics import Tellers, purity
from storage.index import TokenIndex

_POOLED_BYTES = 256 << 20
"""What the means by document may take; documents beyond are left out of the label metrics."""
_PURITY_DRAWS = 1024
FEW_VALUES = range(2, 33)
"""A label with that many values is tried."""
FEWEST_DOCUMENTS = 20
"""Held-out documents that each value of a label needs."""


class DocumentMeans:
    """The mean activation of every feature over each held-out document, as many documents as memory allows."""

    def __init__(self, documents: np.ndarray, n_documents: int, width: int) -> None:
        """`documents` are the held-out ones by number, of `n_documents` in all."""
        most = max(1, _POOLED_BYTES // (4 * width))
        self.documents_N = documents[:: -(-len(documents) // most)]
        self._place = np.full(n_documents, -1, np.int64)
        self._place[self.documents_N] = np.arange(len(self.documents_N))
        self._sums_NF = torch.zeros(len(self.documents_N), width)
        self._rows_N = np.zeros(len(self.documents_N), np.int64)

    def add(self, documents_B: np.ndarray, codes: Codes) -> None:
        """Count a batch in, given the document of each row."""
        place_B = self._place[documents_B]
        self._rows_N += np.bincount(place_B[place_B >= 0], minlength=len(self._rows_N))
        at_A, features_A, values_A = (part.cpu() for part in codes.active())
        place_A = torch.from_numpy(place_B)[at_A]
        mine_A = place_A >= 0
        flat_A = place_A[mine_A] * self._sums_NF.shape[1] + features_A[mine_A]
        self._sums_NF.view(-1).index_add_(0, flat_A, values_A[mine_A])

    @property
    def means(self) -> np.ndarray:
        """float32 [N, F]; a document without rows is all zero."""
        means: np.ndarray = self._sums_NF.numpy() / np.maximum(self._rows_N, 1)[:, None].astype(np.float32)
        return means


@dataclass(frozen=True)
class Purity:
    """How far a feature's strongest tokens are one token."""

    features_F: np.ndarray
    """The features with enough examples."""
    shares_F: np.ndarray
    """Share of each one's examples that are its most common token."""
    null_F: np.ndarray
    """The same of as many held-out rows drawn at random."""


def token_purity(leaders: Leaders, tokens: TokenIndex, rows_H: np.ndarray, seed: int) -> Purity:
    """Purity of every feature with all its examples, beside that of random draws from the held-out rows."""
    features_F, rows_FR = leaders.full()
    drawn = np.random.default_rng(seed).choice(rows_H, (_PURITY_DRAWS, leaders.n))
    ids_FR = tokens.ids(rows_FR.reshape(-1)).reshape(rows_FR.shape)
    null_FR = tokens.ids(drawn.reshape(-1)).reshape(drawn.shape)
    return Purity(features_F, purity(ids_FR), purity(null_FR))


@dataclass(frozen=True)
class Telling:
    """One label and, for each of its values, the single feature that tells it best."""

    label: str
    values: tuple[str, ...]
    features_V: np.ndarray
    auroc_V: np.ndarray
    """Of the mean activation over a document, on documents that did not choose the feature."""
    null: float
    """Mean AUROC found in the same way for labels shuffled between documents."""


def tell_labels(means: DocumentMeans, tokens: TokenIndex, seed: int) -> tuple[Telling, ...]:
    """Every label of few enough text values, each with enough documents."""
    columns = {name: tokens.label(name)[means.documents_N] for name in tokens.label_names}
    columns = {name: labels_N for name, labels_N in columns.items() if fits(labels_N)}
    if not columns:
        return ()
    tellers = Tellers(means.means, seed)
    return tuple(_tell(name, labels_N, tellers, seed) for name, labels_N in columns.items())


def fits(labels_N: np.ndarray) -> bool:
    """Text throughout, few values, and every value common enough for both halves."""
    if not all(isinstance(label, str) for label in labels_N):
        return False
    values, counts = np.unique(labels_N.astype(str), return_counts=True)
    return len(values) in FEW_VALUES and bool(counts.min() >= FEWEST_DOCUMENTS)


def _tell(name: str, labels_N: np.ndarray, tellers: Tellers, seed: int) -> Telling:
    labels_N = labels_N.astype(str)
    features_V, auroc_V = tellers.find(labels_N)
    shuffled = [np.random.default_rng((seed, n)).permutation(labels_N) for n in range(5)]
    null = float(np.mean([tellers.find(labels)[1] for labels in shuffled]))
    return Telling(name, tuple(np.unique(labels_N)), features_V, auroc_V, null)
