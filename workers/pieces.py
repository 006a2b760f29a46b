"""Documents to pieces: each one's text and tokens, and of chats whose message every token belongs to."""

import logging
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from storage.errors import RunError
from workers.chat import Place, places, roles_of
from workers.document import Document, Messages, Text, mismatch
from workers.spans import Encoded, Piece

if TYPE_CHECKING:
    from workers.encode import Encoder

log = logging.getLogger(__name__)

_BATCH_DOCUMENTS = 256
_BATCH_CHARACTERS = 2**20
"""Text held at a time; offsets of a token weigh fifty times its character."""


class _Written(NamedTuple):
    """A document as text."""

    text: str
    places: tuple[Place, ...] | None = None
    """Of a chat's messages; None where they are not known."""


def texts(encoder: "Encoder", documents: Iterable[Document]) -> Iterator[Piece]:
    """The pieces of documents of text."""
    return _pieces(encoder, documents, _plain)


def chats(encoder: "Encoder", documents: Iterable[Document], needed: bool) -> Iterator[Piece]:
    """The pieces of chats; one whose roles are not known is refused where they are `needed`, else told in the log."""
    unknown: list[str] = []
    for piece in _pieces(encoder, documents, partial(_rendered, encoder)):
        if piece.roles is None:
            if needed:
                raise _unknown(piece.key, encoder.source)
            unknown.append(piece.key)
        yield piece
    if unknown:
        log.warning(
            "%d chats, the first %s: what the chat template of %r writes does not tell where their messages stand; "
            "their tokens have no role",
            len(unknown),
            unknown[0],
            encoder.source,
        )


def _pieces(
    encoder: "Encoder", documents: Iterable[Document], write: Callable[[Document], _Written]
) -> Iterator[Piece]:
    for batch in _batches((document, write(document)) for document in documents):
        encoded = encoder.encode([written.text for _, written in batch])
        for (document, written), tokens in zip(batch, encoded, strict=True):
            yield Piece(document.key, document.labels, written.text, tokens, _roles(written, tokens))


def _roles(written: _Written, tokens: Encoded) -> np.ndarray | None:
    if written.places is None or tokens.begin is None or tokens.end is None:
        return None
    return roles_of(written.places, tokens.begin, tokens.end)


def _plain(document: Document) -> _Written:
    if not isinstance(document.content, Text):
        raise mismatch(document, "text")
    return _Written(document.content.text)


def _rendered(encoder: "Encoder", document: Document) -> _Written:
    if not isinstance(document.content, Messages):
        raise mismatch(document, "messages")
    render, messages = partial(encoder.render, key=document.key), document.content.messages
    text = render(messages)
    return _Written(text, places(render, messages, text))


def _batches(documents: Iterable[tuple[Document, _Written]]) -> Iterator[list[tuple[Document, _Written]]]:
    held: list[tuple[Document, _Written]] = []
    characters = 0
    for document, written in documents:
        held.append((document, written))
        characters += len(written.text)
        if len(held) == _BATCH_DOCUMENTS or characters >= _BATCH_CHARACTERS:
            yield held
            held, characters = [], 0
    if held:
        yield held


def _unknown(key: str, source: str) -> RunError:
    return RunError(
        f"document {key}: rows of one role are wanted, but what the chat template of {source!r} writes does not tell "
        "where its messages stand. Leave the document out, or select other rows"
    )
