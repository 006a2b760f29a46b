"""Sequences to padded batches: which run together, and which of their tokens are rows.

B: sequences of a batch, T: tokens of its longest.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from storage.sequences import Sequence as TokenSequence


def batches(sequences: Iterable[TokenSequence], window: int, tokens: int) -> Iterator[list[TokenSequence]]:
    """Batches of similar lengths: those that begin in one window of rows are sorted, then cut by padded size."""
    for _, run in itertools.groupby(sequences, lambda sequence: sequence.start // window):
        yield from _cut(run, tokens)


def _cut(run: Iterable[TokenSequence], tokens: int) -> Iterator[list[TokenSequence]]:
    batch: list[TokenSequence] = []
    for sequence in sorted(run, key=lambda one: (-len(one.input_ids), one.start)):
        longest = len(batch[0].input_ids) if batch else 0
        if batch and (len(batch) + 1) * longest > tokens:
            yield batch
            batch = []
        batch.append(sequence)
    if batch:
        yield batch


def padded(batch: Sequence[TokenSequence], lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, int64 [B, T], padded at the right, where no real token can see it.

    Each sequence is padded with its own first token: a mask multiplies by 0, which leaves the NaN of a token that the
    sequence does not hold.
    """
    ids_BT = np.array([[sequence.input_ids[0]] for sequence in batch], dtype=np.int64).repeat(
        int(lengths.max()), axis=1
    )
    for row_T, sequence in zip(ids_BT, batch, strict=True):
        row_T[: len(sequence.input_ids)] = sequence.input_ids
    mask_BT = (torch.arange(ids_BT.shape[1]) < lengths[:, None]).long()
    return torch.from_numpy(ids_BT), mask_BT


def kept(batch: Sequence[TokenSequence], mask_BT: Tensor) -> Tensor:
    """Which tokens of a padded batch are rows, bool [B, T]: those of the mask, or what is selected of them."""
    kept_BT = mask_BT.bool()
    for kept_T, sequence in zip(kept_BT, batch, strict=True):
        if sequence.rows is not None:
            kept_T.zero_()[torch.from_numpy(sequence.rows).long()] = True
    return kept_BT


def touches(sequence: TokenSequence, ranges: Sequence[tuple[int, int]]) -> bool:
    """Whether a row of the sequence lies in one of the ranges."""
    return any(sequence.start < stop and sequence.start + sequence.n_rows > first for first, stop in ranges)


def merged(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The union of row ranges, as disjoint ranges in order."""
    joined: list[tuple[int, int]] = []
    for first, stop in sorted(ranges):
        if joined and first <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(stop, joined[-1][1]))
        else:
            joined.append((first, stop))
    return joined
