"""Which rows stand for a feature: its strongest ones exactly, and a fair sample from each band of its activations.

Both are kept while batches stream by in any order, and so is a histogram. Activations are binned by half octaves at
fixed places, which are known before a feature's maximum is: band 0 of a feature is the bin that holds its maximum,
band 1 the one below, and the last band everything weaker. As the maximum rises, bins only merge into the last band, and
the rows with the lowest hashes of a union are among the lowest of its parts: so one pass gives what two would.

Bytes for F features once all are full, n leaders and m rows in each of 10 bands: F (20 n + 200 m + 412). At n = 20,
m = 12 and 16,384 features that is 53 MB, and 190 MB (measured) in the moment when what waits is sorted in; a batch of
2048 rows with 32 active features each takes 40 ms on one core.

B rows of a batch, F features, A active entries, C entries kept, R leaders of a feature, H bins, G bands.
"""

from dataclasses import dataclass

import numpy as np

from jobs.sae.codes import Codes

N_BANDS = 10
"""Half octaves below a feature's maximum that are told apart; the last holds all that is weaker."""
N_BINS = 80
_LOWEST = -40
"""The lowest bin begins at 2^(-40/2); activations beyond either end count in the outermost bin."""
_ALL_ONES = np.uint64(2**64 - 1)
_WAITING = 1 << 18
"""Entries that may wait to be sorted in, at least."""


@dataclass(frozen=True)
class Entries:
    """Activations, each of a feature at a row."""

    features_C: np.ndarray
    rows_C: np.ndarray
    values_C: np.ndarray

    @classmethod
    def of(cls, rows_B: np.ndarray, codes: Codes) -> "Entries":
        """The positive codes of a batch."""
        at_A, features_A, values_A = (part.cpu().numpy() for part in codes.active())
        positive_A = values_A > 0
        return cls(features_A[positive_A], rows_B[at_A[positive_A]], values_A[positive_A].astype(np.float32))

    @classmethod
    def none(cls) -> "Entries":
        """No entry at all."""
        return cls(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))

    def at(self, index: np.ndarray) -> "Entries":
        """Some of them, by mask or place."""
        return Entries(self.features_C[index], self.rows_C[index], self.values_C[index])

    def __len__(self) -> int:
        return len(self.rows_C)


def joined(parts: list[Entries]) -> Entries:
    """All entries of all parts."""
    columns = ([getattr(part, name) for part in parts] for name in ("features_C", "rows_C", "values_C"))
    return Entries(*(np.concatenate(column) for column in columns))


class Leaders:
    """The `n` strongest rows of every feature, exactly; of equal activations the lower row leads."""

    def __init__(self, width: int, n: int) -> None:
        self.n = n
        self._kept = Entries.none()
        self._waiting: list[Entries] = []
        self._floor_F = np.zeros(width, np.float32)

    def add(self, rows_B: np.ndarray, codes: Codes) -> None:
        """Let the rows of a batch compete; batches may come in any order."""
        self.take(Entries.of(rows_B, codes))

    def take(self, found: Entries) -> None:
        """The same, of a batch's positive codes."""
        self._waiting.append(found.at(found.values_C >= self._floor_F[found.features_C]))
        if sum(map(len, self._waiting)) > max(_WAITING, len(self._kept)):
            self._settle()

    @property
    def entries(self) -> Entries:
        """All leaders, by feature and then by strength."""
        if self._waiting:
            self._settle()
        return self._kept

    def of(self, feature: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows and activations of one feature, strongest first."""
        a, b = np.searchsorted(self.entries.features_C, [feature, feature + 1])
        return self.entries.rows_C[a:b], self.entries.values_C[a:b]

    def full(self) -> tuple[np.ndarray, np.ndarray]:
        """The features that have `n` leaders, and the rows of these: [F], [F, R]."""
        features, counts = np.unique(self.entries.features_C, return_counts=True)
        mine_C = np.isin(self.entries.features_C, features[counts == self.n])
        return features[counts == self.n], self.entries.rows_C[mine_C].reshape(-1, self.n)

    def _settle(self) -> None:
        all_C = joined([self._kept, *self._waiting])
        self._waiting = []
        self._kept = all_C.at(_firsts(self.n, all_C.features_C, -all_C.values_C, all_C.rows_C))
        last_C = rank_in_group(self._kept.features_C) == self.n - 1
        self._floor_F[self._kept.features_C[last_C]] = self._kept.values_C[last_C]


class Bands:
    """Up to `m` rows from each band of every feature's activations, drawn by a hash, and all activations by bin."""

    def __init__(self, width: int, m: int, seed: int) -> None:
        self.m = m
        self.counts_FH = np.zeros((width, N_BINS), np.int32)
        """How many activations fell into each bin."""
        self._seed = seed
        self._kept = Entries.none()
        self._waiting: list[Entries] = []
        self._top_F = np.zeros(width, np.int64)
        self._worst_FG = np.full((width, N_BANDS), _ALL_ONES)

    def take(self, found: Entries) -> None:
        """Let a batch's positive codes compete; batches may come in any order."""
        bins_A = bins(found.values_C)
        np.add.at(self.counts_FH, (found.features_C, bins_A), 1)
        band_A = np.clip(self._top_F[found.features_C] - bins_A, 0, N_BANDS - 1)
        higher_A = bins_A > self._top_F[found.features_C]
        low_A = self._draw(found) <= self._worst_FG[found.features_C, band_A]
        self._waiting.append(found.at(higher_A | low_A))
        if sum(map(len, self._waiting)) > max(_WAITING, len(self._kept)):
            self._settle()

    @property
    def entries(self) -> Entries:
        """All rows drawn, by feature, band and draw."""
        if self._waiting:
            self._settle()
        return self._kept

    def of(self, feature: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows, activations and bands of one feature, band 0 first, then in the order of the draw."""
        a, b = np.searchsorted(self.entries.features_C, [feature, feature + 1])
        mine = self.entries.at(np.arange(a, b))
        return mine.rows_C, mine.values_C, self.band(mine)

    def band(self, found: Entries) -> np.ndarray:
        """The band of each activation below the greatest one of its feature, from 0."""
        return np.clip(self._tops()[found.features_C] - bins(found.values_C), 0, N_BANDS - 1)

    def quantile(self, found: Entries) -> np.ndarray:
        """Share of its feature's activations that each exceeds, to half an octave: those of its own bin count half."""
        mine_CH, own_C = self.counts_FH[found.features_C].astype(np.int64), bins(found.values_C)
        through_C = np.take_along_axis(mine_CH.cumsum(axis=1), own_C[:, None], axis=1)[:, 0]
        half_C = np.take_along_axis(mine_CH, own_C[:, None], axis=1)[:, 0] / 2
        return (through_C - half_C) / mine_CH.sum(axis=1)

    def _tops(self) -> np.ndarray:
        """The bin of each feature's maximum; the last one for a feature that never spoke."""
        tops_F: np.ndarray = N_BINS - 1 - (self.counts_FH[:, ::-1] > 0).argmax(axis=1)
        return tops_F

    def _draw(self, found: Entries) -> np.ndarray:
        return hashed(hashed(found.rows_C, self._seed) ^ found.features_C.astype(np.uint64), self._seed)

    def _settle(self) -> None:
        all_C = joined([self._kept, *self._waiting])
        self._waiting = []
        self._top_F = self._tops()
        groups_C = all_C.features_C * N_BANDS + self.band(all_C)
        draws_C = self._draw(all_C)
        index = _firsts(self.m, groups_C, draws_C, all_C.rows_C)
        last = index[rank_in_group(groups_C[index]) == self.m - 1]
        self._kept = all_C.at(index)
        self._worst_FG[:] = _ALL_ONES
        self._worst_FG.reshape(-1)[groups_C[last]] = draws_C[last]


def bins(values_C: np.ndarray) -> np.ndarray:
    """The half octave of each positive number; by its bits, so that no rounding moves it."""
    mantissa_C, exponent_C = np.frexp(values_C.astype(np.float64))
    return np.clip(2 * (exponent_C.astype(np.int64) - 1) + (mantissa_C >= 0.5**0.5) - _LOWEST, 0, N_BINS - 1)


def edges() -> np.ndarray:
    """Where the bins begin, and where the last one ends: float64 [H + 1]."""
    return np.asarray(2.0 ** ((np.arange(N_BINS + 1) + _LOWEST) / 2))


def hashed(numbers: np.ndarray, seed: int) -> np.ndarray:
    """A number of 64 bits for each, as good as random (the finaliser of splitmix64)."""
    x = numbers.astype(np.uint64) + np.uint64((0x9E3779B97F4A7C15 * (seed + 1)) % 2**64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def rank_in_group(sorted_C: np.ndarray) -> np.ndarray:
    """Place of each entry among the equal entries it stands with."""
    return np.arange(len(sorted_C)) - np.searchsorted(sorted_C, sorted_C)


def _firsts(n: int, groups_C: np.ndarray, keys_C: np.ndarray, rows_C: np.ndarray) -> np.ndarray:
    """Places of the n lowest keys of each group (of equal ones, the lower row first), in that order."""
    order_C = np.lexsort((rows_C, keys_C, groups_C))
    return order_C[rank_in_group(groups_C[order_C]) < n]
