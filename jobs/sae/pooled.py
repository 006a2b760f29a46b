"""Whole documents as examples: their mean hidden state, their mean codes, and the labels that they can be told by.

N documents, B rows of a batch, D dimensions of a hidden state, F features.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from jobs.sae.features import FEW_VALUES, DocumentMeans, fits
from storage.index import TokenIndex

MOST_DOCUMENTS = 4096
"""Documents used, half to fit on and half to score: an accuracy is then good to 1%, and a fit takes seconds."""
MOST_VALUES = 8
"""Values of a label that are asked about, the most common ones: time grows with each."""
FEWEST_SIDE = 5
"""Documents with a value, and without it, that each half needs."""


class StateMeans:
    """The mean hidden state of the very documents that a `DocumentMeans` keeps."""

    def __init__(self, documents_N: np.ndarray, n_documents: int, d: int) -> None:
        """`documents_N` are those of `DocumentMeans.documents_N`, of `n_documents` in all."""
        self._place = np.full(n_documents, -1, np.int64)
        self._place[documents_N] = np.arange(len(documents_N))
        self._sums_ND = torch.zeros(len(documents_N), d, dtype=torch.float64)
        self._rows_N = torch.zeros(len(documents_N), dtype=torch.float64)

    def add(self, documents_B: np.ndarray, x_BD: Tensor) -> None:
        """Count a batch in, given the document of each row."""
        place_B = torch.from_numpy(self._place[documents_B])
        mine_B = place_B >= 0
        self._sums_ND.index_add_(0, place_B[mine_B], x_BD.detach().cpu()[mine_B].double())
        self._rows_N += torch.bincount(place_B[mine_B], minlength=len(self._rows_N))

    @property
    def means(self) -> Tensor:
        """float32 [N, D]; a document without rows is all zero."""
        return (self._sums_ND / self._rows_N.clamp(min=1)[:, None]).float()


@dataclass(frozen=True)
class Concept:
    """One thing that a document has or has not."""

    label: str
    value: str
    has_N: np.ndarray
    """bool"""
    opposed: bool
    """Whether not to have it is a value of its own, for the label has but two."""


@dataclass(frozen=True)
class Documents:
    """Examples on two sides: probes and features are chosen on one, and scored on the other."""

    x_ND: Tensor
    """Mean hidden states."""
    z_NF: Tensor
    """Mean codes."""
    labels: Mapping[str, np.ndarray]
    """A text for each document, for each label that fits."""
    seed: int

    @property
    def halves(self) -> tuple[np.ndarray, np.ndarray]:
        """Places of the documents to fit on, and of those to score."""
        order_N = np.random.default_rng(self.seed).permutation(len(self.x_ND))
        return order_N[::2], order_N[1::2]

    def concepts(self, label: str) -> tuple[Concept, ...]:
        """One for each of the label's common values, the most common first; the rarer one alone if there are two."""
        texts_N = self.labels[label]
        values, counts = np.unique(texts_N, return_counts=True)
        common = values[np.argsort(-counts, kind="stable")][:MOST_VALUES]
        wanted = common[1:] if len(values) == 2 else common
        found = (Concept(label, str(value), texts_N == value, len(values) == 2) for value in wanted)
        return tuple(concept for concept in found if self._on_both_sides(concept.has_N))

    def _on_both_sides(self, has_N: np.ndarray) -> bool:
        sides = (side for half in self.halves for side in (has_N[half], ~has_N[half]))
        return min(int(side.sum()) for side in sides) >= FEWEST_SIDE


def examples(x_ND: Tensor, z_NF: Tensor, labels: Mapping[str, np.ndarray], seed: int) -> Documents:
    """Documents with those of their labels that have few enough values, each common enough; a sample if they are many.

    `labels` has one entry per document, of any kind.
    """
    kept_M = np.arange(len(x_ND))
    if len(kept_M) > MOST_DOCUMENTS:
        kept_M = np.sort(np.random.default_rng(seed).choice(kept_M, MOST_DOCUMENTS, replace=False))
    fitting = {name: label_N[kept_M] for name, label_N in labels.items() if fits(label_N[kept_M])}
    texts = {name: label_M.astype(str) for name, label_M in fitting.items()}
    index_M = torch.from_numpy(kept_M)
    return Documents(x_ND[index_M], z_NF[index_M], texts, seed)


def pooled(states: StateMeans, codes: DocumentMeans, tokens: TokenIndex, seed: int) -> Documents:
    """The held-out documents of a cache, after one pass over their rows."""
    labels = {name: tokens.label(name)[codes.documents_N] for name in tokens.label_names}
    return examples(states.means, torch.from_numpy(codes.means), labels, seed)


def left_out(documents: Documents, label_names: Sequence[str]) -> tuple[str, ...]:
    """A sentence on the labels that were not asked about, if any."""
    if left := [name for name in label_names if name not in documents.labels]:
        why = f"it takes text of {FEW_VALUES.start} to {FEW_VALUES.stop - 1} values, each in enough documents"
        return (f"No sparse probing, TPP or SCR for {', '.join(left)}: {why}.",)
    return ()
