"""Sequences of a cache as a live model reads them, a forward pass at a time, with the rows that somebody asked for.

N rows asked for, R tokens of a forward pass that have a row in the cache.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from storage.cache import Cache
from storage.segment import Segment
from storage.sequences import Sequence as TokenSequence
from storage.sequences import Sequences
from storage.site import Site


@dataclass(frozen=True)
class Excerpts:
    """Whole sequences, and those of their tokens that have a row in the cache."""

    sequences: tuple[np.ndarray, ...]
    """Token ids of each, those without a row too."""
    kept_R: np.ndarray
    """Where the rows are among all the tokens of the sequences."""
    rows_R: np.ndarray
    """Their numbers in the cache."""
    after_R: np.ndarray
    """The token after each row, int64; -1 at the end of a sequence."""
    asked_R: np.ndarray
    """Whether each was asked for."""


def excerpts(cache: Cache, site: Site, rows_N: np.ndarray, tokens: int, batch: int = 8192) -> Iterator[Excerpts]:
    """The sequences that hold the rows asked for (ascending), each once, in forwards of at most `batch` tokens.

    Where they would have many more than so many `tokens`, those that hold rows evenly spaced among them.
    """
    index, base = cache.tokens, 0
    n_picks = max(1, tokens * index.n_sequences // max(1, index.n_rows)) if tokens < index.n_rows else len(rows_N)
    places = np.linspace(0, len(rows_N) - 1, min(n_picks, len(rows_N))).astype(np.int64)
    picks = np.asarray(rows_N)[places]
    for segment in cache.sealed_segments(site):
        mine = picks[(picks >= base) & (picks < base + segment.plan.rows)] - base
        for some in _batches(_holding(segment, mine), batch):
            yield _excerpts(some, base, rows_N)
        base += segment.plan.rows


def _excerpts(some: Sequence[TokenSequence], base: int, rows_N: np.ndarray) -> Excerpts:
    lengths = [len(one.input_ids) for one in some]
    firsts = np.cumsum([0, *lengths[:-1]])
    places = [np.arange(len(one.input_ids)) if one.rows is None else one.rows for one in some]
    rows_R = np.concatenate([base + one.start + np.arange(one.n_rows) for one in some])
    return Excerpts(
        sequences=tuple(one.input_ids for one in some),
        kept_R=np.concatenate([first + at for first, at in zip(firsts, places, strict=True)]),
        rows_R=rows_R,
        after_R=np.concatenate(
            [np.append(one.input_ids[1:], -1).astype(np.int64)[at] for one, at in zip(some, places, strict=True)]
        ),
        asked_R=np.isin(rows_R, rows_N, assume_unique=True),
    )


def _batches(some: Iterator[TokenSequence], tokens: int) -> Iterator[list[TokenSequence]]:
    """At most so many tokens each, padding included, unless one sequence alone has more."""
    batch: list[TokenSequence] = []
    for one in some:
        longest = max(len(other.input_ids) for other in (*batch, one))
        if batch and (len(batch) + 1) * longest > tokens:
            yield batch
            batch = []
        batch.append(one)
    if batch:
        yield batch


def _holding(segment: Segment, rows: np.ndarray) -> Iterator[TokenSequence]:
    """The sequences of a segment with one of these rows, which ascend."""
    sequences, stop = Sequences(segment), 0
    for row in rows.tolist():
        if row >= stop:
            (sequence,) = sequences.touching(row, row + 1)
            stop = sequence.start + sequence.n_rows
            yield sequence
