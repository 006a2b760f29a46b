"""What a probe is fitted on: every token, or one state per document; read once, in blocks.

N examples, R stored rows (R = N but for means), B examples of one block, D width of the site.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import assert_never

import numpy as np
import torch
from torch import Tensor

from jobs.core.tensors import as_tensor
from storage.errors import InputError
from storage.index import TokenIndex
from storage.reader import Activations
from storage.value import Value

_BLOCK = 16_384
"""Rows read at a time: 12 MiB of float32 at width 192, 256 MiB at 4096."""


class EveryToken(Value, tag_field="kind", tag="every_token"):
    """Each token's state is an example."""

    skip: int = 1
    """Tokens left out at the start of each sequence: the first state is an outlier in most models."""


class LastToken(Value, tag_field="kind", tag="last_token"):
    """The state of a document's last token stands for the document."""


class MeanToken(Value, tag_field="kind", tag="mean_token"):
    """The mean of a document's states stands for the document."""

    skip: int = 1
    """Tokens left out at the start of each sequence: the first state is an outlier in most models."""


Pooling = EveryToken | LastToken | MeanToken


@dataclass(frozen=True)
class Examples:
    """Which stored rows make up each example, and whose they are."""

    rows_R: np.ndarray
    """Rows of the cache, those of an example together."""
    ends_N: np.ndarray
    """Where each example ends in `rows_R`."""
    documents_N: np.ndarray
    """Document number of each example."""
    n_available: int
    """Rows (documents, when pooled) that there were before the cap."""

    def __len__(self) -> int:
        return len(self.ends_N)

    def only(self, keep_N: np.ndarray) -> "Examples":
        """Those of the mask."""
        lengths_N = np.diff(self.ends_N, prepend=0)
        rows_R = self.rows_R[np.repeat(keep_N, lengths_N)]
        return Examples(rows_R, np.cumsum(lengths_N[keep_N]), self.documents_N[keep_N], self.n_available)

    @property
    def pooled(self) -> bool:
        """Some example is a mean over rows."""
        return len(self.rows_R) != len(self)


def draw(tokens: TokenIndex, n_rows: int, pooling: Pooling, cap: int, seed: int) -> Examples:
    """All examples of the first `n_rows` rows, or `cap` of them drawn evenly, in the order in which they are stored."""
    n_documents = int(tokens.documents(np.array([n_rows - 1]))[0]) + 1
    rng = np.random.default_rng([seed, 0])
    match pooling:
        case EveryToken(skip=skip):
            rows_N = _some(n_rows, cap, rng)
            rows_N = rows_N[tokens.positions(rows_N) >= skip]
            examples = _single(tokens, rows_N, n_rows)
        case LastToken():
            rows = [rows[-1:] for rows in _document_rows(tokens, _some(n_documents, cap, rng), 0)]
            examples = _single(tokens, np.sort(_joined(rows)), n_documents)
        case MeanToken(skip=skip):
            rows = _document_rows(tokens, _some(n_documents, cap, rng), skip)
            ends_N = np.cumsum([len(each) for each in rows], dtype=np.int64)
            first_N = np.array([each[0] for each in rows], dtype=np.int64)
            examples = Examples(_joined(rows), ends_N, tokens.documents(first_N), n_documents)
        case _:
            assert_never(pooling)
    if not len(examples):
        raise InputError(
            f"pooling wants tokens to fit on; none of the {n_rows} rows is left after {pooling}: set skip = 0"
        )
    return examples


def read_blocks(acts: Activations, examples: Examples, device: str) -> Iterator[tuple[slice, Tensor]]:
    """The examples' states in order, float32 [B, D], each stored row read once; the slice says which examples."""
    starts_N = np.concatenate([[0], examples.ends_N])
    edges = np.flatnonzero(np.diff(starts_N[:-1] // _BLOCK, prepend=-1))
    for a, b in pairwise([*edges.tolist(), len(examples)]):
        x_RD = as_tensor(acts[examples.rows_R[starts_N[a] : starts_N[b]]], device)
        yield slice(a, b), _means(x_RD, np.diff(starts_N[a : b + 1])) if examples.pooled else x_RD


def _means(x_RD: Tensor, lengths_B: np.ndarray) -> Tensor:
    lengths = torch.from_numpy(lengths_B).to(x_RD.device)
    owner_R = torch.repeat_interleave(lengths)
    sums_BD = torch.zeros(len(lengths), x_RD.shape[1], dtype=torch.float64, device=x_RD.device)
    return sums_BD.index_add_(0, owner_R, x_RD.double()).div_(lengths[:, None]).float()


def _some(n: int, cap: int, rng: np.random.Generator) -> np.ndarray:
    if n <= cap:
        return np.arange(n, dtype=np.int64)
    return np.sort(rng.choice(n, cap, replace=False)).astype(np.int64)


def _document_rows(tokens: TokenIndex, documents: np.ndarray, skip: int) -> list[np.ndarray]:
    """Rows of each document that has any left after the first `skip` tokens of its sequences."""
    rows = [tokens.document_rows(int(document)) for document in documents]
    if skip:
        rows = [each[tokens.positions(each) >= skip] for each in rows]
    return [each for each in rows if len(each)]


def _joined(rows: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(rows) if rows else np.empty(0, np.int64)


def _single(tokens: TokenIndex, rows_N: np.ndarray, n_available: int) -> Examples:
    ends_N = np.arange(1, len(rows_N) + 1)
    return Examples(rows_N, ends_N, tokens.documents(rows_N), n_available)
