"""What every system is given: one model, one corpus, and the rows that plain transformers makes of them."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

BATCH = 4096
"""Rows of a batch that is read."""
SEQUENCES = 32
"""Sequences of one forward pass."""
BLOCK = 2
"""The block whose output is read: `resid.2`."""
BUFFER = 2**16
"""Rows of the shuffling buffer, where a system lets one choose."""

_NEIGHBOURS = 16
"""On either side; a re-implemented model moves the order of rows by a few places."""
_KEYS = 16
_SAME = 1e-2
"""Rows differ by about their own size, 1; arithmetic by a millionth of it."""


@dataclass(frozen=True)
class Material:
    """A folder with `model/`, `corpus/documents.jsonl`, `tokens.npy` [S, T] and `truth.npy` [N, D], float32."""

    folder: Path

    @property
    def model(self) -> Path:
        """Folder of the model and its tokenizer."""
        return self.folder / "model"

    @property
    def corpus(self) -> Path:
        """A document a line, under "text"; each is one sequence."""
        return self.folder / "corpus" / "documents.jsonl"

    @cached_property
    def tokens(self) -> np.ndarray:
        """The token ids, [S, T]."""
        return np.load(self.folder / "tokens.npy")

    @cached_property
    def truth(self) -> np.ndarray:
        """The output of the block as plain transformers gives it, [N, D], mapped."""
        return np.load(self.folder / "truth.npy", mmap_mode="r")

    @property
    def context(self) -> int:
        """Tokens of a sequence."""
        return int(self.tokens.shape[1])

    def texts(self) -> list[str]:
        """The documents."""
        return [json.loads(line)["text"] for line in self.corpus.read_text().splitlines()]


class Finder:
    """Says which row of the truth a row is: batching moves the last bits, so equal bytes will not do.

    Rows are compared without their mean, so that a system which stores centred rows is still understood.
    """

    def __init__(self, truth_ND: np.ndarray) -> None:
        self._truth_ND = truth_ND
        self._along_D = _direction(truth_ND.shape[1])
        key_N, self._keys_NK = self._project(truth_ND)
        self._order_N = np.argsort(key_N)
        self._sorted_N = key_N[self._order_N]

    def __call__(self, x_BD: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For every row the number of the nearest one, whether it is that one, and the largest difference from it."""
        key_B, keys_BK = self._project(x_BD)
        at_BC = np.searchsorted(self._sorted_N, key_B)[:, None] + np.arange(-_NEIGHBOURS, _NEIGHBOURS)
        rows_BC = self._order_N[at_BC.clip(0, len(self._order_N) - 1)]
        gap_BC = np.abs(self._keys_NK[rows_BC] - keys_BK[:, None]).max(axis=2)
        rows_B = rows_BC[np.arange(len(rows_BC)), gap_BC.argmin(axis=1)]
        return rows_B, gap_BC.min(axis=1) < _SAME, np.abs(self._truth_ND[rows_B] - x_BD).max(axis=1)

    def _project(self, x_ND: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A number that tells most rows apart, and some centred coordinates that tell the rest."""
        mean_N = x_ND.mean(axis=1, dtype=np.float64)
        key_N = np.concatenate([part.astype(np.float64) @ self._along_D for part in _parts(x_ND)])
        return key_N, x_ND[:, :_KEYS] - mean_N[:, None]


def _direction(d: int) -> np.ndarray:
    """Seeded, and blind to a row's mean."""
    along_D = np.random.default_rng(0).standard_normal(d)
    return along_D - along_D.mean()


def _parts(x_ND: np.ndarray) -> list[np.ndarray]:
    return [x_ND[at : at + BATCH] for at in range(0, len(x_ND), BATCH)]
