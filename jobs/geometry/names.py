"""What a token id of a corpus stands for: the string that most of its occurrences show.

R rows of a cache, V token ids, C documents.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator

import numpy as np

from storage.index import TokenIndex

EXAMPLES = 5
"""Occurrences of a token id, drawn by a hash of where they are, that decide which string it stands for."""
_MIX = np.uint64(0x9E3779B97F4A7C15)
_NOT_TEXT = re.compile(r"\[unused\d+\]|<unused\d+>|<0x[0-9A-Fa-f]{2}>")


def named_tokens(tokens: TokenIndex, blocks: Iterator[np.ndarray], min_count: int) -> list[tuple[str, int]]:
    """Token ids by the string they most often stand for, a leading space told apart; special ids are left out."""
    counts: Counter[int] = Counter()
    examples: dict[int, list[tuple[int, int]]] = {}
    documents = _document_numbers(tokens)
    for rows_R in blocks:
        ids_R = tokens.ids(rows_R)
        lot_R = documents[tokens.documents(rows_R)] ^ (tokens.positions(rows_R).astype(np.uint64) * _MIX)
        order_R = np.lexsort((lot_R, ids_R))
        ids_V, first_V, counts_V = np.unique(ids_R[order_R], return_index=True, return_counts=True)
        for token, first, count in zip(ids_V.tolist(), first_V.tolist(), counts_V.tolist(), strict=True):
            counts[token] += count
            places = order_R[first : first + min(count, EXAMPLES)]
            lots = zip(lot_R[places].tolist(), rows_R[places].tolist(), strict=True)
            examples[token] = sorted([*examples.get(token, ()), *lots])[:EXAMPLES]
    kept = [token for token in sorted(counts) if counts[token] >= min_count]
    surfaces = iter(_surfaces(tokens, np.array([row for token in kept for _, row in examples[token]], np.int64)))
    named = [(Counter(next(surfaces) for _ in examples[token]).most_common(1)[0][0], token) for token in kept]
    return [(name, token) for name, token in named if name and not _NOT_TEXT.fullmatch(name)]


def _document_numbers(tokens: TokenIndex) -> np.ndarray:
    """A number for each document that its id alone decides, uint64 [C], so that draws know of no order of rows."""
    digests = (hashlib.blake2b(str(name).encode(), digest_size=8).digest() for name in tokens.document_ids)
    return np.array([int.from_bytes(digest, "little") for digest in digests], np.uint64)


def _surfaces(tokens: TokenIndex, rows_R: np.ndarray) -> list[str]:
    """The text of each row's token, with one leading space where white space comes before it."""
    before_R = np.maximum(rows_R - 1, 0)
    gap_R = tokens.offsets(before_R)[1] < tokens.offsets(rows_R)[0]
    gap_R &= (before_R < rows_R) & (tokens.documents(before_R) == tokens.documents(rows_R))
    gap_R &= tokens.positions(before_R) + 1 == tokens.positions(rows_R)  # else a token between them has no row
    pairs = zip(gap_R.tolist(), tokens.strings(rows_R), strict=True)
    return [" " * (gap or text[:1].isspace()) + text.strip() if text.strip() else text for gap, text in pairs]
