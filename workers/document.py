"""What a corpus hands to the tokenizer: one document, with its key and its labels."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from storage.errors import InputError
from storage.tokens import Scalar


@dataclass(frozen=True, slots=True)
class Text:
    """Plain text."""

    text: str


@dataclass(frozen=True, slots=True)
class Messages:
    """A chat: mappings that hold at least `role` and `content`."""

    messages: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Ids:
    """Token ids that were made elsewhere."""

    input_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Image:
    """An image file's bytes, still encoded."""

    data: bytes


Content = Text | Messages | Ids | Image


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a corpus."""

    key: str
    """Stable within the corpus: the id column's value, or the file's path below the glob's fixed folder and the row."""
    content: Content
    labels: Mapping[str, Scalar] = field(default_factory=dict)
    """A value for every label column of the corpus, in its order."""


def mismatch(document: Document, wanted: str) -> InputError:
    """What to say of a document whose content is of another kind than a tokenisation takes."""
    found = type(document.content).__name__
    return InputError(
        f"document {document.key} holds {found}, and this tokenisation takes {wanted}: "
        "name the column that the corpus holds, or another tokenisation"
    )
