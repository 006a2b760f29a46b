"""How well the tokens themselves tell where a feature fires: the best set of tokens, and the best n-gram, by F1.

A detector is found on one half of the documents and scored on the other; its null is found and scored in the same way
with the tokens shuffled between the rows of each half, so that every feature fires as often as it does.

The best set is exact: F1 of a set S is 2 TP(S) / (count(S) + fires), which is greatest for the tokens of highest
precision down to some precision, so only as many sets as tokens need be tried.

N rows, A firings, F features, C classes of rows (tokens or n-grams), P pairs of a feature and a class, S members of
sets.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from jobs.sae.contexts import Entries, hashed, rank_in_group
from jobs.sae.windows import windows
from storage.index import TokenIndex

LONGEST = 3
"""Tokens in the longest n-gram."""
FEWEST_FIRINGS = 10
"""On each half, for a feature to have detectors."""
_MOST = 1 << 23
"""Firings and rows kept, at most: 12 bytes each while they gather, about 60 while detectors are found."""
_BETWEEN_HALVES, _BETWEEN_DOCUMENTS = 1, 2
"""Added to the seed, so that the half of a document does not follow from whether it was kept."""


class Firings:
    """Which features fire on which rows, of as many documents as fit; a hash decides which.

    Documents are kept whole while their hash is below a bar, and the bar is halved until what is kept fits: the same
    documents stay, whatever the order and the size of batches.
    """

    def __init__(self, tokens: TokenIndex, width: int, seed: int, most: int = _MOST) -> None:
        self.tokens, self.width, self.seed = tokens, width, seed
        self._most = most
        self._bar = 1.0
        self._rows: list[np.ndarray] = []
        self._firings: list[tuple[np.ndarray, np.ndarray]] = []

    def take(self, rows_B: np.ndarray, found: Entries) -> None:
        """Count in a batch: all its rows, and its positive codes."""
        self._keep(rows_B, found.rows_C, found.features_C.astype(np.int32))
        while sum(map(len, self._rows)) + sum(len(rows) for rows, _ in self._firings) > self._most:
            self._bar /= 2
            waiting, self._rows, self._firings = (self._rows, self._firings), [], []
            for rows_B, (rows_A, features_A) in zip(*waiting, strict=True):
                self._keep(rows_B, rows_A, features_A)

    def _keep(self, rows_B: np.ndarray, rows_A: np.ndarray, features_A: np.ndarray) -> None:
        below_B, below_A = self._below(rows_B), self._below(rows_A)
        self._rows.append(rows_B[below_B])
        self._firings.append((rows_A[below_A], features_A[below_A]))

    def _below(self, rows: np.ndarray) -> np.ndarray:
        return hashed(self.tokens.documents(rows), self.seed + _BETWEEN_DOCUMENTS) / 2.0**64 < self._bar

    @cached_property
    def rows_N(self) -> np.ndarray:
        """The rows kept, ascending; ask when all batches are in."""
        return np.sort(np.concatenate([np.empty(0, np.int64), *self._rows]))

    @cached_property
    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Place in `rows_N` and feature of every firing on them: [A], [A]."""
        rows_A = np.concatenate([np.empty(0, np.int64), *(rows for rows, _ in self._firings)])
        features_A = np.concatenate([np.empty(0, np.int64), *(features for _, features in self._firings)])
        return np.searchsorted(self.rows_N, rows_A), features_A.astype(np.int64)

    @property
    def finding_N(self) -> np.ndarray:
        """Whether each row is of the half that detectors are found on."""
        return finding_half(self.tokens, self.rows_N, self.seed)


def finding_half(tokens: TokenIndex, rows: np.ndarray, seed: int) -> np.ndarray:
    """Whether the document of each row is of the half on which things are found; the other half scores them."""
    return hashed(tokens.documents(rows), seed + _BETWEEN_HALVES) % np.uint64(2) == 0


@dataclass(frozen=True)
class Detector:
    """The best detector of one kind for every feature."""

    length: int
    """Tokens that it looks at: the row's own and those before it."""
    f1_F: np.ndarray
    """On the half that did not choose it; NaN for features that fire too rarely."""
    null_F: np.ndarray
    """The same for shuffled tokens."""
    chosen_f1_F: np.ndarray
    """On the half that chose it."""
    features_S: np.ndarray
    """Ascending; of one feature, the members that catch most firings come first."""
    rows_S: np.ndarray
    """A row that stands for each member: it and the rows before it have the member's tokens."""

    def members(self, feature: int, n: int) -> np.ndarray:
        """The rows of a feature's first `n` members."""
        a, b = np.searchsorted(self.features_S, [feature, feature + 1])
        return self.rows_S[a : min(b, a + n)]

    @property
    def sizes_F(self) -> np.ndarray:
        """Members of each feature's detector."""
        return np.bincount(self.features_S, minlength=len(self.f1_F))


@dataclass(frozen=True)
class Detectors:
    """What tokens say about every feature."""

    token_set: Detector
    ngrams: tuple[Detector, ...]
    """The best n-gram for n = 1, 2, ..."""

    @cached_property
    def best_F(self) -> np.ndarray:
        """n - 1 of the best n-gram of each feature, by the half that chose; the shorter of equals."""
        best_F: np.ndarray = np.nan_to_num(np.stack([one.chosen_f1_F for one in self.ngrams])).argmax(axis=0)
        return best_F

    @property
    def ngram_f1_F(self) -> np.ndarray:
        """F1 of the best n-gram, on the half that did not choose it."""
        return np.stack([one.f1_F for one in self.ngrams])[self.best_F, np.arange(len(self.best_F))]

    @property
    def ngram_null_F(self) -> np.ndarray:
        """The same for shuffled tokens; of each length the null of its own, so of the length that was chosen."""
        return np.stack([one.null_F for one in self.ngrams])[self.best_F, np.arange(len(self.best_F))]


def detect(firings: Firings) -> Detectors:
    """The detectors of every feature that fires often enough on both halves."""
    kinds = _classes(firings)
    halves = firings.finding_N
    rng = np.random.default_rng(firings.seed)
    order_N = np.arange(len(firings.rows_N))
    for half in (halves, ~halves):
        order_N[half] = rng.permutation(order_N[half])
    sets = _detector(firings, kinds[0], 1, True, order_N)
    return Detectors(sets, tuple(_detector(firings, kind, n, False, order_N) for n, kind in enumerate(kinds, 1)))


@dataclass(frozen=True)
class _Kind:
    """Rows by class."""

    of_N: np.ndarray
    """-1 where the row has too few tokens before it."""
    example_C: np.ndarray
    """A row of each class."""


def _classes(firings: Firings) -> list[_Kind]:
    """Rows by their last n tokens, for every n."""
    rows_NW = windows(firings.tokens, firings.rows_N, LONGEST - 1, 0)
    ids_NW = np.where(rows_NW >= 0, firings.tokens.ids(rows_NW.reshape(-1)).reshape(rows_NW.shape), -1).astype(np.int64)
    kinds: list[_Kind] = []
    key_N = np.zeros(len(ids_NW), np.int64)
    for n in range(1, LONGEST + 1):
        id_N = ids_NW[:, LONGEST - n]
        key_N = np.where((id_N < 0) | (key_N < 0), -1, (key_N << 32) + id_N)
        known_N = key_N >= 0
        _, example_C, of = np.unique(key_N[known_N], return_index=True, return_inverse=True)
        key_N[known_N] = of
        kinds.append(_Kind(key_N.copy(), firings.rows_N[known_N][example_C]))
    return kinds


def _detector(firings: Firings, kind: _Kind, length: int, sets: bool, order_N: np.ndarray) -> Detector:
    features_S, classes_S, chosen_f1_F, f1_F = _best(firings, kind.of_N, len(kind.example_C), sets)
    *_, null_F = _best(firings, kind.of_N[order_N], len(kind.example_C), sets)
    return Detector(length, f1_F, null_F, chosen_f1_F, features_S, kind.example_C[classes_S])


def _best(
    firings: Firings, of_N: np.ndarray, n_classes: int, sets: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Members of the best detectors (features, classes), their F1 where they were found, and on the other half."""
    found = _Counts.of(firings, of_N, n_classes, firings.finding_N)
    tested = _Counts.of(firings, of_N, n_classes, ~firings.finding_N)
    members_P, chosen_f1_F = found.best_sets() if sets else found.best_single()
    features_S, classes_S = np.divmod(found.pairs_P[members_P], n_classes)
    often_S = np.lexsort((classes_S, -found.fires_P[members_P], features_S))
    features_S, classes_S = features_S[often_S], classes_S[often_S]
    f1_F = tested.score(features_S, classes_S)
    f1_F[np.minimum(found.fires_F, tested.fires_F) < FEWEST_FIRINGS] = np.nan
    return features_S, classes_S, chosen_f1_F, f1_F


@dataclass(frozen=True)
class _Counts:
    """Firings by feature and class on one half."""

    pairs_P: np.ndarray
    """feature * C + class, ascending."""
    fires_P: np.ndarray
    count_C: np.ndarray
    fires_F: np.ndarray

    @classmethod
    def of(cls, firings: Firings, of_N: np.ndarray, n_classes: int, half_N: np.ndarray) -> "_Counts":
        at_A, features_A = firings.pairs
        mine_A = half_N[at_A]
        fires_F = np.bincount(features_A[mine_A], minlength=firings.width)
        known_A = mine_A & (of_N[at_A] >= 0)
        pairs_P, fires_P = np.unique(features_A[known_A] * n_classes + of_N[at_A[known_A]], return_counts=True)
        count_C = np.bincount(of_N[half_N & (of_N >= 0)], minlength=n_classes)
        return cls(pairs_P, fires_P, count_C, fires_F)

    def best_sets(self) -> tuple[np.ndarray, np.ndarray]:
        """Places of the pairs in each feature's best set, and its F1: [S], [F]."""
        features_P, classes_P = np.divmod(self.pairs_P, len(self.count_C))
        order_P = np.lexsort((classes_P, -self.fires_P / self.count_C[classes_P], features_P))
        sorted_P = features_P[order_P]
        caught_P = _cumulative(self.fires_P[order_P], sorted_P)
        alarms_P = _cumulative(self.count_C[classes_P[order_P]], sorted_P)
        f1_P = 2 * caught_P / (alarms_P + self.fires_F[sorted_P])
        best_F, last_F = self._greatest(f1_P, sorted_P)
        return order_P[rank_in_group(sorted_P) <= last_F[sorted_P]], best_F

    def best_single(self) -> tuple[np.ndarray, np.ndarray]:
        """The place of each feature's best pair, and its F1: [S], [F]."""
        features_P, classes_P = np.divmod(self.pairs_P, len(self.count_C))
        f1_P = 2 * self.fires_P / (self.count_C[classes_P] + self.fires_F[features_P])
        best_F, at_F = self._greatest(f1_P, features_P)
        return np.flatnonzero(rank_in_group(features_P) == at_F[features_P]), best_F

    def _greatest(self, f1_P: np.ndarray, features_P: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The greatest F1 of each feature, and at which of its pairs it is first reached."""
        best_F, at_F = np.zeros(len(self.fires_F)), np.full(len(self.fires_F), -1)
        np.maximum.at(best_F, features_P, f1_P)
        reached = np.flatnonzero(f1_P == best_F[features_P])
        features, first = np.unique(features_P[reached], return_index=True)
        at_F[features] = rank_in_group(features_P)[reached[first]]
        return best_F, at_F

    def score(self, features_S: np.ndarray, classes_S: np.ndarray) -> np.ndarray:
        """F1 of detectors with these members: [F]."""
        keys_S = features_S * len(self.count_C) + classes_S
        place_S = np.minimum(np.searchsorted(self.pairs_P, keys_S), max(len(self.pairs_P) - 1, 0))
        hit_S = self.pairs_P[place_S] == keys_S if len(self.pairs_P) else np.zeros(len(keys_S), bool)
        caught_S = np.where(hit_S, self.fires_P[place_S], 0) if len(self.pairs_P) else np.zeros(len(keys_S))
        width = len(self.fires_F)
        caught_F = np.bincount(features_S, caught_S, minlength=width)
        alarms_F = np.bincount(features_S, self.count_C[classes_S], minlength=width)
        return 2 * caught_F / np.maximum(alarms_F + self.fires_F, 1)


def _cumulative(counts_P: np.ndarray, features_P: np.ndarray) -> np.ndarray:
    """Running sum within each feature."""
    sums_P = counts_P.cumsum()
    starts_P = np.searchsorted(features_P, features_P)
    return sums_P - sums_P[starts_P] + counts_P[starts_P]
