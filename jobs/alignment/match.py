"""Which row of one cache stands for the same text as which row of another.

Shapes: N rows of one side (in order of document, then row), C shared documents, M matched rows.
"""

from dataclasses import dataclass

import numpy as np

from storage.errors import InputError
from storage.index import TokenIndex

TEXT_SAMPLE = 256
"""Matched rows whose token texts are compared, to catch documents that share a name but not their text."""


@dataclass(frozen=True)
class Side:
    """The rows of one cache that lie in shared documents; documents are numbered alike on both sides."""

    row_N: np.ndarray
    document_N: np.ndarray
    position_N: np.ndarray
    token_N: np.ndarray
    begin_N: np.ndarray
    end_N: np.ndarray

    def lengths(self, n_documents: int) -> np.ndarray:
        """Rows of each shared document."""
        return np.bincount(self.document_N, minlength=n_documents)

    def take(self, keep: np.ndarray) -> "Side":
        """The rows chosen by a mask or by indices."""
        columns = (self.row_N, self.document_N, self.position_N, self.token_N, self.begin_N, self.end_N)
        return Side(*(column[keep] for column in columns))


@dataclass(frozen=True)
class Matched:
    """Pairs of rows, in order of the source row, and what had to be left out."""

    source_M: np.ndarray
    target_M: np.ndarray
    document_M: np.ndarray
    token_M: np.ndarray
    """Token id of the source row."""
    document_ids_C: np.ndarray
    notes: tuple[str, ...]


def match(
    source: TokenIndex, target: TokenIndex, *, limits: tuple[int, int], skip: int, max_rows: int, seed: int
) -> Matched:
    """Pairs the rows of every document that both caches hold.

    Where both sides cut a document into the same character spans, rows are paired one to one. Where they differ, a
    source row is paired with the target row whose token ends at the same character: for a causal model both have
    then read the same text. Without character spans (images, ready token ids) a document's n-th rows are paired, if
    both sides have as many. Rows at sequence positions below `skip` are left out, and those from `limits` on, which
    not every site has yet.
    """
    ids_C, source_C, target_C, notes = shared_documents(source.document_ids, target.document_ids)
    keep = _within(source, source_C, max_rows, seed)
    if len(keep) < len(ids_C):
        notes += (f"{len(keep):,} of {len(ids_C):,} shared documents were drawn to stay under max_rows = {max_rows:,}",)
    for name, index, limit in zip(("source", "target"), (source, target), limits, strict=True):
        if limit < index.n_rows:
            notes += (f"{index.n_rows - limit:,} rows of the {name} cache are not sealed yet for every site asked for",)
    ids_C = ids_C[keep]
    a, b = _side(source, source_C[keep], limits[0]), _side(target, target_C[keep], limits[1])
    pairs_M2, said = pair(a, b, len(ids_C))
    a, b, skipped = _skip(a.take(pairs_M2[:, 0]), b.take(pairs_M2[:, 1]), skip)
    order_M = np.argsort(a.row_N, kind="stable")
    a, b = a.take(order_M), b.take(order_M)
    if _has_spans(a) and _has_spans(b):
        _check_text(source, target, a.row_N, b.row_N, seed)
    return Matched(a.row_N, b.row_N, a.document_N, a.token_N, ids_C, (*notes, *said, *skipped))


def shared_documents(
    source_ids: np.ndarray, target_ids: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[str, ...]]:
    """Ids in both, their document numbers on each side, and remarks; an id that a cache holds twice is ambiguous."""
    unique = [np.unique(ids.astype(str), return_index=True, return_counts=True) for ids in (source_ids, target_ids)]
    (a, at_a, n_a), (b, at_b, n_b) = unique
    ids_C, in_a, in_b = np.intersect1d(a[n_a == 1], b[n_b == 1], assume_unique=True, return_indices=True)
    if not len(ids_C):
        raise InputError(
            "the two caches share no document: the source holds "
            f"{_some(source_ids)}, the target holds {_some(target_ids)}; harvest both from the same corpus"
        )
    notes = [
        f"{len(ids) - len(ids_C):,} of {len(ids):,} documents are in the {name} cache only"
        for name, ids in (("source", a[n_a == 1]), ("target", b[n_b == 1]))
        if len(ids) > len(ids_C)
    ]
    if twice := int((n_a > 1).sum() + (n_b > 1).sum()):
        notes.append(f"{twice:,} document ids occur more than once in a cache and were left out")
    return ids_C, at_a[n_a == 1][in_a], at_b[n_b == 1][in_b], tuple(notes)


def pair(a: Side, b: Side, n_documents: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """Indices [M, 2] into both sides, and remarks on the rows that found no partner."""
    if not (_has_spans(a) and _has_spans(b)):
        return _pair_by_order(a, b, n_documents)
    same_C = _same_spans(a, b, n_documents)
    alike = np.stack([np.flatnonzero(same_C[a.document_N]), np.flatnonzero(same_C[b.document_N])], axis=1)
    special = a.begin_N[alike[:, 0]] == a.end_N[alike[:, 0]]
    alike_kept = alike[~special | _same_start(a.take(alike[:, 0]), b.take(alike[:, 1]))]
    by_end, lone_a, lone_b = _pair_by_end(a, b, same_C)
    notes = [
        f"{len(alike_kept):,} row pairs from {same_C.sum():,} documents cut alike, "
        f"{len(by_end):,} by equal end of token from {n_documents - same_C.sum():,} documents cut differently"
    ]
    if lone_a or lone_b:
        notes.append(f"no token ends at the same character: {lone_a:,} source rows and {lone_b:,} target rows left out")
    if dropped := len(alike) - len(alike_kept):
        notes.append(
            f"{dropped:,} pairs of special tokens left out: they are paired only as equal ids at a sequence's start"
        )
    return np.concatenate([alike_kept, by_end]), tuple(notes)


def _pair_by_order(a: Side, b: Side, n_documents: int) -> tuple[np.ndarray, tuple[str, ...]]:
    same_C = a.lengths(n_documents) == b.lengths(n_documents)
    pairs = np.stack([np.flatnonzero(same_C[a.document_N]), np.flatnonzero(same_C[b.document_N])], axis=1)
    note = f"{len(pairs):,} row pairs by order within the document, for want of character spans"
    if left_out := int((~same_C).sum()):
        note += f"; {left_out:,} documents differ in length and were left out"
    return pairs, (note,)


def _skip(a: Side, b: Side, skip: int) -> tuple[Side, Side, tuple[str, ...]]:
    """Paired rows without those at a sequence's first positions on either side."""
    late_M = (a.position_N >= skip) & (b.position_N >= skip)
    if len(late_M) and not late_M.any():
        raise InputError(
            f"all {len(late_M):,} matched rows lie at sequence positions below skip = {skip}: set skip = 0 "
            "(each row of a vocabulary is a sequence of its own)"
        )
    left_out = int((~late_M).sum())
    note = f"{left_out:,} matched rows at sequence positions below skip = {skip} left out"
    return a.take(late_M), b.take(late_M), (note,) if left_out else ()


def _same_spans(a: Side, b: Side, n_documents: int) -> np.ndarray:
    """bool[C]: the documents that both sides cut into the same character spans."""
    same_C = a.lengths(n_documents) == b.lengths(n_documents)
    in_a, in_b = same_C[a.document_N], same_C[b.document_N]
    differs = (a.begin_N[in_a] != b.begin_N[in_b]) | (a.end_N[in_a] != b.end_N[in_b])
    same_C[a.document_N[in_a][differs]] = False
    return same_C


def _same_start(a: Side, b: Side) -> np.ndarray:
    return (a.position_N == 0) & (b.position_N == 0) & (a.token_N == b.token_N)


def _pair_by_end(a: Side, b: Side, same_C: np.ndarray) -> tuple[np.ndarray, int, int]:
    """Joins on (document, end of token) in the documents cut differently, and counts the rows left alone.

    A character that takes several byte tokens ends several rows: the last one has read all of it.
    """
    sides = [np.flatnonzero(~same_C[side.document_N] & (side.begin_N < side.end_N)) for side in (a, b)]
    stride = 1 + max(int(side.end_N.max(initial=0)) for side in (a, b))
    (keys_a, last_a), (keys_b, last_b) = (
        _last_of_each(side.document_N[rows].astype(np.int64) * stride + side.end_N[rows])
        for side, rows in zip((a, b), sides, strict=True)
    )
    _, in_a, in_b = np.intersect1d(keys_a, keys_b, assume_unique=True, return_indices=True)
    pairs = np.stack([sides[0][last_a[in_a]], sides[1][last_b[in_b]]], axis=1)
    return pairs, len(sides[0]) - len(pairs), len(sides[1]) - len(pairs)


def _last_of_each(keys_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    unique, from_end = np.unique(keys_N[::-1], return_index=True)
    return unique, len(keys_N) - 1 - from_end


def _within(source: TokenIndex, source_C: np.ndarray, max_rows: int, seed: int) -> np.ndarray:
    """Indices of randomly drawn shared documents whose source rows come to at most `max_rows`."""
    n_rows_D = np.bincount(source.documents(slice(None)), minlength=source.n_documents)
    n_rows_C = n_rows_D[source_C]
    drawn = np.random.default_rng(seed).permutation(len(source_C))
    return np.sort(drawn[np.cumsum(n_rows_C[drawn]) <= max_rows])


def _side(index: TokenIndex, documents_C: np.ndarray, limit: int) -> Side:
    shared_D = np.full(index.n_documents, -1, dtype=np.int64)
    shared_D[documents_C] = np.arange(len(documents_C))
    number_N = shared_D[index.documents(slice(None))]
    rows = np.flatnonzero(number_N[:limit] >= 0)
    rows = rows[np.argsort(number_N[rows], kind="stable")]
    return Side(rows, number_N[rows], index.positions(rows), index.ids(rows), *_offsets(index, rows))


def _offsets(index: TokenIndex, rows_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Character spans; all empty without a text, and then rows are matched by order."""
    if index.has_text:
        return index.offsets(rows_N)
    return np.zeros(len(rows_N), np.int32), np.zeros(len(rows_N), np.int32)


def _has_spans(side: Side) -> bool:
    return bool((side.begin_N < side.end_N).any())


def _check_text(source: TokenIndex, target: TokenIndex, rows_a: np.ndarray, rows_b: np.ndarray, seed: int) -> None:
    """Refuses caches whose documents share names but hold different text."""
    sample = np.random.default_rng(seed).permutation(len(rows_a))[:TEXT_SAMPLE]
    texts = zip(source.strings(rows_a[sample]), target.strings(rows_b[sample]), strict=True)
    trimmed = [(x.strip().casefold(), y.strip().casefold()) for x, y in texts]
    compared = [(x, y) for x, y in trimmed if x and y]
    differing = [(x, y) for x, y in compared if not (x.endswith(y) or y.endswith(x))]
    if len(differing) > len(compared) / 2:
        raise InputError(
            f"documents of the same id hold different text in the two caches: of {len(compared)} matched rows "
            f"{len(differing)} differ, for instance {differing[0][0]!r} and {differing[0][1]!r}; "
            "harvest both from the same corpus"
        )


def _some(ids: np.ndarray) -> str:
    return f"{len(ids):,} such as {', '.join(repr(str(i)) for i in ids[:3])}"
