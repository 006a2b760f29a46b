"""Token streams cut into spans: one sequence per document, or packed windows. Pure arithmetic on arrays."""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from storage.tokens import Scalar, Span


class Encoded(NamedTuple):
    """The tokens of one text, without the special ones that the tokenizer adds."""

    input_ids: np.ndarray
    """int32 [n]."""
    begin: np.ndarray | None
    """First character of each token, int32 [n]; None where the tokenizer can't tell, or there is no text."""
    end: np.ndarray | None
    """One past the last character."""


class Affixes(NamedTuple):
    """The special tokens that the tokenizer puts around one sequence."""

    prefix: np.ndarray
    suffix: np.ndarray

    @property
    def n_tokens(self) -> int:
        return len(self.prefix) + len(self.suffix)


class Piece(NamedTuple):
    """A document with its tokens."""

    key: str
    labels: Mapping[str, Scalar]
    text: str | None
    tokens: Encoded
    roles: np.ndarray | None = None
    """A code of `storage.tokens.ROLES` for each token of a chat, int8 [n]; None where it is not known."""


NO_AFFIXES = Affixes(np.zeros(0, np.int32), np.zeros(0, np.int32))


def cut(pieces: Iterable[Piece], context: int | None, affixes: Affixes = NO_AFFIXES) -> Iterator[Span]:
    """At least one sequence per document, each with its affixes; an empty document has these alone."""
    sequences = itertools.count()
    for document, piece in enumerate(pieces):
        n_tokens = len(piece.tokens.input_ids)
        room = max(1, n_tokens if context is None else context - affixes.n_tokens)
        for start in range(0, max(1, n_tokens), room):
            yield _span(piece, next(sequences), document, start, start + room, affixes)


def pack(pieces: Iterable[Piece], context: int, separator: int) -> Iterator[Span]:
    """Windows of `context` tokens, the separator after every document; a span for each document in each window."""
    sequence, room = 0, context
    for document, piece in enumerate(pieces):
        closed = _closed(piece, separator)
        start, n_tokens = 0, len(closed.tokens.input_ids)
        while start < n_tokens:
            stop = min(start + room, n_tokens)
            yield _span(closed, sequence, document, start, stop, NO_AFFIXES)
            room -= stop - start
            start = stop
            if room == 0:
                sequence, room = sequence + 1, context


def _closed(piece: Piece, separator: int) -> Piece:
    """The document's tokens and, at its end, the separator, which covers no character."""
    ids, begin, end = piece.tokens
    ids = np.append(ids, np.int32(separator))
    if begin is None or end is None:
        return piece._replace(tokens=Encoded(ids, None, None))
    at = np.int32(len(piece.text or ""))
    return piece._replace(tokens=Encoded(ids, np.append(begin, at), np.append(end, at)))


def _span(piece: Piece, sequence: int, document: int, start: int, stop: int, affixes: Affixes) -> Span:
    """Tokens [start, stop) of a document with affixes around them, and the text from them to the next ones."""
    every, begin, end = piece.tokens
    ids = np.concatenate([affixes.prefix, every[start:stop], affixes.suffix])
    if piece.text is None or begin is None or end is None:
        text = piece.text if start == 0 and stop >= len(every) else None
        return Span(sequence, document, piece.key, ids, None, None, text, 0, piece.labels, None)
    left, right = _extent(piece.text, begin, end, start, stop)
    before, after = np.full(len(affixes.prefix), left, np.int32), np.full(len(affixes.suffix), right, np.int32)
    begin = np.concatenate([before, begin[start:stop], after])
    end = np.concatenate([before, end[start:stop], after])
    text = piece.text[left:right]
    # chats, which alone have roles, have no affixes: their template writes the special tokens
    roles = None if piece.roles is None else piece.roles[start:stop]
    return Span(sequence, document, piece.key, ids, begin, end, text, left, piece.labels, None, None, roles)


def _extent(text: str, begin: np.ndarray, end: np.ndarray, start: int, stop: int) -> tuple[int, int]:
    """The characters of a cut: up to where the next one begins, or past it where both hold bytes of one character."""
    left = int(begin[start:stop].min()) if start else 0
    right = int(begin[stop]) if stop < len(begin) else len(text)
    return left, max(right, int(end[start:stop].max(initial=0)))
