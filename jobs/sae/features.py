"""What each feature speaks for: the rows where it is strongest, with their text, and the labels it tells apart.

B rows of a batch, F features, R examples of a feature, A active entries, C candidates, N documents.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from jobs.sae.codes import Codes
from jobs.sae.metrics import Tellers, purity
from storage.index import TokenIndex

_BEFORE, _AFTER = 60, 40
"""Characters of context kept around a token."""
_POOLED_BYTES = 256 << 20
"""What the means by document may take; documents beyond are left out of the label metrics."""
_PURITY_DRAWS = 1024
FEW_VALUES = range(2, 33)
"""A label with that many values is tried."""
FEWEST_DOCUMENTS = 20
"""Held-out documents that each value of a label needs."""


class Leaders:
    """The `n` strongest rows of every feature, exactly; of equal activations the lower row leads."""

    def __init__(self, width: int, n: int) -> None:
        self.n = n
        self.features_C = np.empty(0, np.int64)
        self.rows_C = np.empty(0, np.int64)
        self.values_C = np.empty(0, np.float32)
        self.floor_F = np.zeros(width, np.float32)

    def add(self, rows_B: np.ndarray, codes: Codes) -> None:
        """Let the rows of a batch compete; batches may come in any order."""
        at_A, features_A, values_A = (part.cpu().numpy() for part in codes.active())
        strong_A = values_A >= self.floor_F[features_A]
        features_C = np.concatenate([self.features_C, features_A[strong_A]])
        rows_C = np.concatenate([self.rows_C, rows_B[at_A[strong_A]]])
        values_C = np.concatenate([self.values_C, values_A[strong_A]])
        order_C = np.lexsort((rows_C, -values_C, features_C))
        kept_C = order_C[_rank_in_group(features_C[order_C]) < self.n]
        self.features_C, self.rows_C, self.values_C = features_C[kept_C], rows_C[kept_C], values_C[kept_C]
        last_C = _rank_in_group(self.features_C) == self.n - 1
        self.floor_F[self.features_C[last_C]] = self.values_C[last_C]

    def of(self, feature: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows and activations of one feature, strongest first."""
        a, b = np.searchsorted(self.features_C, [feature, feature + 1])
        return self.rows_C[a:b], self.values_C[a:b]

    def full(self) -> tuple[np.ndarray, np.ndarray]:
        """The features that have `n` examples, and the rows of these: [F], [F, R]."""
        features, counts = np.unique(self.features_C, return_counts=True)
        mine_C = np.isin(self.features_C, features[counts == self.n])
        return features[counts == self.n], self.rows_C[mine_C].reshape(-1, self.n)


def _rank_in_group(sorted_C: np.ndarray) -> np.ndarray:
    """Place of each entry among the equal entries it stands with."""
    return np.arange(len(sorted_C)) - np.searchsorted(sorted_C, sorted_C)


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
    columns = {name: labels_N for name, labels_N in columns.items() if _fits(labels_N)}
    if not columns:
        return ()
    tellers = Tellers(means.means, seed)
    return tuple(_tell(name, labels_N, tellers, seed) for name, labels_N in columns.items())


def _fits(labels_N: np.ndarray) -> bool:
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


def features_table(density_F: np.ndarray, leaders: Leaders, pure: Purity, tokens: TokenIndex) -> pa.Table:
    """A line per feature: how often it speaks, how loudly at most, and its most common strongest token."""
    width = len(density_F)
    strongest_F, shares_F = np.zeros(width, np.float32), np.full(width, np.nan)
    firsts = np.flatnonzero(_rank_in_group(leaders.features_C) == 0)
    strongest_F[leaders.features_C[firsts]] = leaders.values_C[firsts]
    shares_F[pure.features_F] = pure.shares_F
    top: list[str | None] = [None] * width
    rows = leaders.rows_C[firsts]
    for feature, token in zip(leaders.features_C[firsts], shown_tokens(tokens, rows), strict=True):
        top[feature] = token
    return pa.table(
        {
            "feature": pa.array(np.arange(width)),
            "density": pa.array(density_F),
            "max_activation": pa.array(strongest_F),
            "strongest_token": pa.array(top, pa.string()),
            "purity": pa.array(shares_F, from_pandas=True),
        }
    )


def examples_table(features: Mapping[int, str], leaders: Leaders, tokens: TokenIndex) -> pa.Table:
    """A line per example of each feature, strongest first; `features` says of each why it was chosen."""
    lines = []
    for feature, why in features.items():
        rows, values = leaders.of(feature)
        names = tokens.document_ids[tokens.documents(rows)]
        for rank, (row, value, token) in enumerate(zip(rows, values, shown_tokens(tokens, rows), strict=True)):
            left, _, right = tokens.context(int(row), before=_BEFORE, after=_AFTER)
            lines.append(
                {"feature": feature, "chosen": why, "rank": rank, "row": int(row), "activation": float(value)}
                | {"left": left, "token": token, "right": right, "document": str(names[rank])}
            )
    types = {"feature": pa.int64(), "chosen": pa.string(), "rank": pa.int32(), "row": pa.int64()}
    types |= {"activation": pa.float32(), **dict.fromkeys(("left", "token", "right", "document"), pa.string())}
    return pa.Table.from_pylist(lines, pa.schema(types))


def shown_tokens(tokens: TokenIndex, rows: np.ndarray) -> Sequence[str]:
    """The text of each row's token, or its id in brackets where it has none (special tokens, image patches)."""
    ids = tokens.ids(rows)
    return [text or f"[{number}]" for text, number in zip(tokens.strings(rows), ids, strict=True)]
