"""Documents to sequences of tokens: how a corpus is cut, as a value, and the tokeniser that does it.

Light to import, so that a recipe can name a tokenisation: transformers is loaded with a tokeniser.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from storage.errors import InputError, RunError
from storage.tokens import Span
from storage.value import Value
from workers.document import Document, Image, Messages, Text
from workers.document import Ids as InputIds
from workers.spans import NO_AFFIXES, Affixes, Encoded, Piece, cut, pack

if TYPE_CHECKING:
    from workers.encode import Encoder


class Documents(Value, tag_field="kind", tag="documents"):
    """Each document is a sequence; what is longer than the context continues in further sequences."""

    context: int | None = None
    """Tokens in the longest sequence, special ones included; None does not cut."""
    special: bool = True
    """Whether each sequence has the special tokens that the tokenizer adds."""

    def __post_init__(self) -> None:
        _check_context(self.context)


class Packed(Value, tag_field="kind", tag="packed"):
    """Documents, each followed by the eos (or sep) token, laid end to end in windows; only the last may be shorter."""

    context: int
    """Tokens in a window."""

    def __post_init__(self) -> None:
        _check_context(self.context)


class Chat(Value, tag_field="kind", tag="chat"):
    """Each chat, written out by the model's template, is a sequence; longer ones continue in further sequences."""

    context: int | None = None
    """Tokens in the longest sequence; None does not cut."""

    def __post_init__(self) -> None:
        _check_context(self.context)


class Ids(Value, tag_field="kind", tag="ids"):
    """Each document's own token ids are a sequence; longer ones continue in further sequences."""

    context: int | None = None
    """Tokens in the longest sequence; None does not cut."""

    def __post_init__(self) -> None:
        _check_context(self.context)


class Patches(Value, tag_field="kind", tag="patches"):
    """Each image is a sequence with a row per patch."""

    special: bool = False
    """Whether the rows before the patches (CLS, registers) are kept; their ids are -1, -2, ..."""


class Entries(Value, tag_field="kind", tag="entries"):
    """Each token id of the vocabulary is a sequence of length 1; rows beyond the tokenizer's size are left out."""


Tokenisation = Documents | Packed | Chat | Ids | Patches | Entries
Spans = Callable[[Iterable[Document]], Iterator[Span]]

_BATCH_DOCUMENTS = 256
_BATCH_CHARACTERS = 2**20
"""Text held at a time; offsets of a token weigh fifty times its character."""


class Tokeniser:
    """Turns documents into spans, the way its tokenisation says; built once per process, for one model."""

    def __init__(self, source: str, revision: str | None, tokenisation: Tokenisation) -> None:
        match tokenisation:
            case Documents() | Packed() | Chat():
                self._spans = _of_text(source, revision, tokenisation)
            case Ids():
                self._spans = _of_ids(source, revision, tokenisation)
            case Patches():
                self._spans = _of_images(source, revision, tokenisation)
            case Entries():
                self._spans = _of_entries(source, revision)

    def __call__(self, documents: Iterable[Document]) -> Iterator[Span]:
        """The spans of one part of the corpus, in order; those of a vocabulary need no documents."""
        return self._spans(documents)


def _of_text(source: str, revision: str | None, tokenisation: Documents | Packed | Chat) -> Spans:
    from workers.encode import Encoder

    encoder = Encoder(source, revision)
    match tokenisation:
        case Documents(context=context, special=special):
            affixes = encoder.affixes() if special else NO_AFFIXES
            _check_room(source, context, affixes)
            return lambda documents: cut(_pieces(encoder, documents, _plain), context, affixes)
        case Packed(context=window):
            separator = encoder.separator()
            return lambda documents: pack(_pieces(encoder, documents, _plain), window, separator)
        case Chat(context=context):
            encoder.check_template()
            return lambda documents: cut(_pieces(encoder, documents, partial(_rendered, encoder)), context)


def _pieces(encoder: "Encoder", documents: Iterable[Document], text: Callable[[Document], str]) -> Iterator[Piece]:
    for batch in _batches((document, text(document)) for document in documents):
        encoded = encoder.encode([written for _, written in batch])
        for (document, written), tokens in zip(batch, encoded, strict=True):
            yield Piece(document.key, document.labels, written, tokens)


def _plain(document: Document) -> str:
    if not isinstance(document.content, Text):
        raise _mismatch(document, "text")
    return document.content.text


def _rendered(encoder: "Encoder", document: Document) -> str:
    if not isinstance(document.content, Messages):
        raise _mismatch(document, "messages")
    return encoder.render(document.content.messages, document.key)


def _of_ids(source: str, revision: str | None, tokenisation: Ids) -> Spans:
    from workers.encode import vocabulary_size

    size = vocabulary_size(source, revision)
    return lambda documents: cut((_id_piece(document, size) for document in documents), tokenisation.context)


def _id_piece(document: Document, size: int) -> Piece:
    if not isinstance(document.content, InputIds):
        raise _mismatch(document, "input_ids")
    ids = document.content.input_ids
    if outside := [token for token in ids if not 0 <= token < size]:
        raise RunError(
            f"document {document.key}: input id {outside[0]} is outside the model's vocabulary of {size} "
            f"(0 to {size - 1}). Correct it, or use the model that the ids are for"
        )
    return Piece(document.key, document.labels, None, Encoded(np.asarray(ids, np.int32), None, None))


def _of_images(source: str, revision: str | None, tokenisation: Patches) -> Spans:
    from workers.images import grid, load_processor, picture

    n_patches, n_special = grid(source, revision, load_processor(source, revision))
    special = -1 - np.arange(n_special if tokenisation.special else 0, dtype=np.int32)
    ids = np.concatenate([special, np.arange(n_patches, dtype=np.int32)])

    def spans(documents: Iterable[Document]) -> Iterator[Span]:
        for number, document in enumerate(documents):
            if not isinstance(document.content, Image):
                raise _mismatch(document, "an image")
            data = document.content.data
            picture(data, document.key)  # a broken one is refused by name before any model is loaded
            yield Span(number, number, document.key, ids, None, None, None, 0, document.labels, data)

    return spans


def _of_entries(source: str, revision: str | None) -> Spans:
    from workers.encode import Encoder, vocabulary_size

    encoder, size = Encoder(source, revision), vocabulary_size(source, revision)

    def spans(_: Iterable[Document]) -> Iterator[Span]:
        entries = ((token, text) for token, text in encoder.entries().items() if token < size)
        for number, (token, text) in enumerate(entries):
            yield _entry(number, token, text)

    return spans


def _entry(number: int, token: int, text: str) -> Span:
    ids, begin, end = (np.asarray([value], np.int32) for value in (token, 0, len(text)))
    return Span(number, number, str(token), ids, begin, end, text, 0, {}, None)


def _mismatch(document: Document, wanted: str) -> InputError:
    found = type(document.content).__name__
    return InputError(
        f"document {document.key} holds {found}, and this tokenisation takes {wanted}: "
        "name the column that the corpus holds, or another tokenisation"
    )


def _batches(documents: Iterable[tuple[Document, str]]) -> Iterator[list[tuple[Document, str]]]:
    held: list[tuple[Document, str]] = []
    characters = 0
    for document, text in documents:
        held.append((document, text))
        characters += len(text)
        if len(held) == _BATCH_DOCUMENTS or characters >= _BATCH_CHARACTERS:
            yield held
            held, characters = [], 0
    if held:
        yield held


def _check_context(context: int | None) -> None:
    if context is not None and context < 1:
        raise ValueError(f"context must be at least 1 token, found {context}")


def _check_room(source: str, context: int | None, affixes: Affixes) -> None:
    if context is not None and context <= affixes.n_tokens:
        raise InputError(
            f"context {context} leaves no room for text: the tokenizer of {source!r} adds {affixes.n_tokens} special "
            f"tokens to a sequence. Ask for at least {affixes.n_tokens + 1}, or for special = false"
        )
