"""Documents to sequences of tokens: how a corpus is cut, as a value, and the tokeniser that does it.

Light to import, so that a recipe can name a tokenisation: transformers is loaded with a tokeniser.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from msgspec import UNSET, UnsetType

from storage.errors import InputError, RunError
from storage.tokens import Span
from storage.value import Value
from workers.document import Document, Image, mismatch
from workers.document import Ids as InputIds
from workers.pieces import chats, texts
from workers.selection import Content, Every, Last, OfRole, Selection, needs_special, selected
from workers.spans import NO_AFFIXES, Affixes, Encoded, Piece, cut, pack

if TYPE_CHECKING:
    from workers.encode import Encoder

TextSelection = Content | Last | Every


class Documents(Value, tag_field="kind", tag="documents"):
    """Each document is a sequence; what is longer than the context continues in further sequences."""

    context: int | None = None
    """Tokens in the longest sequence, special ones included; None does not cut."""
    special: bool = True
    """Whether each sequence has the special tokens that the tokenizer adds."""
    select: TextSelection | UnsetType = UNSET
    """Which tokens have rows; without it all have one, and the identity does not speak of it."""

    def __post_init__(self) -> None:
        _check_context(self.context)


class Packed(Value, tag_field="kind", tag="packed"):
    """Documents, each followed by the eos (or sep) token, laid end to end in windows; only the last may be shorter."""

    context: int
    """Tokens in a window."""
    select: TextSelection | UnsetType = UNSET
    """Which tokens have rows; all without it."""

    def __post_init__(self) -> None:
        _check_context(self.context)


class Chat(Value, tag_field="kind", tag="chat"):
    """Each chat, written out by the model's template, is a sequence; longer ones continue in further sequences."""

    context: int | None = None
    """Tokens in the longest sequence; None does not cut."""
    select: TextSelection | OfRole | UnsetType = UNSET
    """Which tokens have rows; all without it."""

    def __post_init__(self) -> None:
        _check_context(self.context)


class Ids(Value, tag_field="kind", tag="ids"):
    """Each document's own token ids are a sequence; longer ones continue in further sequences."""

    context: int | None = None
    """Tokens in the longest sequence; None does not cut."""
    select: TextSelection | UnsetType = UNSET
    """Which tokens have rows; all without it."""

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


def _selecting(spans: Spans, selection: Selection | UnsetType, special: Callable[[], np.ndarray]) -> Spans:
    if selection is UNSET:
        return spans
    ids = special() if needs_special(selection) else np.zeros(0, np.int32)
    return lambda documents: selected(spans(documents), selection, ids)


def _of_text(source: str, revision: str | None, tokenisation: Documents | Packed | Chat) -> Spans:
    from workers.encode import Encoder

    encoder = Encoder(source, revision)
    return _selecting(_cutting(encoder, tokenisation), tokenisation.select, encoder.special_ids)


def _cutting(encoder: "Encoder", tokenisation: Documents | Packed | Chat) -> Spans:
    match tokenisation:
        case Documents(context=context, special=special):
            affixes = encoder.affixes() if special else NO_AFFIXES
            _check_room(encoder.source, context, affixes)
            return lambda documents: cut(texts(encoder, documents), context, affixes)
        case Packed(context=window):
            separator = encoder.separator()
            return lambda documents: pack(texts(encoder, documents), window, separator)
        case Chat(context=context, select=select):
            encoder.check_template()
            needed = isinstance(select, OfRole)
            return lambda documents: cut(chats(encoder, documents, needed), context)


def _of_ids(source: str, revision: str | None, tokenisation: Ids) -> Spans:
    from workers.encode import vocabulary_size

    size = vocabulary_size(source, revision)
    return _selecting(
        lambda documents: cut((_id_piece(document, size) for document in documents), tokenisation.context),
        tokenisation.select,
        partial(_special_ids, source, revision),
    )


def _special_ids(source: str, revision: str | None) -> np.ndarray:
    from workers.encode import Encoder

    try:
        return Encoder(source, revision).special_ids()
    except InputError as error:
        raise InputError(
            f"which of the input ids are special tokens is for the tokenizer to say, and model {source!r} has none: "
            'save it in the model\'s folder, or take a selection that asks for none, such as { kind = "every", n = 4 }'
        ) from error


def _id_piece(document: Document, size: int) -> Piece:
    if not isinstance(document.content, InputIds):
        raise mismatch(document, "input_ids")
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
                raise mismatch(document, "an image")
            data = document.content.data
            picture(data, document.key)  # a broken one is refused by name before any model is loaded
            yield Span(number, number, document.key, ids, None, None, None, 0, document.labels, data)

    return spans


def _of_entries(source: str, revision: str | None) -> Spans:
    from workers.encode import Encoder, vocabulary_size
    from workers.vocabulary import entries

    encoder, size = Encoder(source, revision), vocabulary_size(source, revision)

    def spans(_: Iterable[Document]) -> Iterator[Span]:
        for number, entry in enumerate(entries(encoder, size)):
            ids, begin, end = (np.asarray([value], np.int32) for value in (entry.token, 0, len(entry.text)))
            labels = {"entry": entry.kind, "bytes": entry.spelt.hex()}
            yield Span(number, number, str(entry.token), ids, begin, end, entry.text, 0, labels, None)

    return spans


def _check_context(context: int | None) -> None:
    if context is not None and context < 1:
        raise ValueError(f"context must be at least 1 token, found {context}")


def _check_room(source: str, context: int | None, affixes: Affixes) -> None:
    if context is not None and context <= affixes.n_tokens:
        raise InputError(
            f"context {context} leaves no room for text: the tokenizer of {source!r} adds {affixes.n_tokens} special "
            f"tokens to a sequence. Ask for at least {affixes.n_tokens + 1}, or for special = false"
        )
