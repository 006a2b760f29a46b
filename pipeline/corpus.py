"""Corpora as a recipe names them: where documents come from, and which columns hold what."""

import os
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import msgspec

from storage.errors import InputError
from storage.tokens import RESERVED
from storage.value import Value, convert

Split = Literal["file", "line", "paragraph"]
ContentKind = Literal["text", "messages", "input_ids", "image"]

_MAGIC = re.compile(r"[*?[]")
_ESCAPED = re.compile(r"\[([*?[])\]")


class Files(Value):
    """Text, chats or ready token ids in files: .txt, .md, .jsonl, .json, .csv, .tsv (each also .gz), .parquet."""

    files: str
    """Glob, as a path relative to the recipe's folder or an fsspec URL."""
    text: str | None = None
    """Column of the text; 'text' where neither `messages` nor `input_ids` is given."""
    messages: str | None = None
    """Column of a chat: a list of objects with `role` and `content`."""
    input_ids: str | None = None
    """Column of token ids that were made elsewhere."""
    id: str | None = None
    """Column of unique document ids; without it a document is named by its file and row."""
    labels: tuple[str, ...] = ()
    """Columns kept beside the tokens; a label read from CSV is a string, for CSV has no types."""
    split: Split = "file"
    """What a document is in .txt and .md; lines and paragraphs of white space are left out."""

    def __post_init__(self) -> None:
        _check_content(self.text, self.messages, self.input_ids)
        _check_labels(self.labels)


class Hub(Value):
    """A data set of the Hugging Face hub, read through the `datasets` library."""

    hub: str
    """Its name, or a local folder that `datasets` can load, beginning with '.', '/' or '~'."""
    subset: str | None = None
    """Its configuration, where it has several."""
    split: str = "train"
    """Which split of it."""
    revision: str | None = None
    """Branch, tag or commit."""
    text: str | None = None
    """Column of the text; 'text' where neither `messages` nor `input_ids` is given."""
    messages: str | None = None
    """Column of a chat: a list of objects with `role` and `content`."""
    input_ids: str | None = None
    """Column of token ids that were made elsewhere."""
    id: str | None = None
    """Column of unique document ids; without it a document is named by its shard and row."""
    labels: tuple[str, ...] = ()
    """Columns kept beside the tokens."""

    def __post_init__(self) -> None:
        _check_content(self.text, self.messages, self.input_ids)
        _check_labels(self.labels)


class Images(Value):
    """Image files, or images in a column of Parquet files."""

    images: str
    """Glob, as a path relative to the recipe's folder or an fsspec URL."""
    column: str | None = None
    """Column of the encoded images in Parquet files (bytes, or a struct with `bytes`); 'image' if not given."""
    id: str | None = None
    """Column of unique document ids; without it a document is named by its file and row."""
    labels: tuple[str, ...] = ()
    """Columns kept beside the patches."""

    def __post_init__(self) -> None:
        _check_labels(self.labels)


class Vocabulary(Value):
    """The model's own vocabulary: each token id by itself."""

    vocabulary: bool

    def __post_init__(self) -> None:
        if not self.vocabulary:
            raise ValueError("vocabulary is true or not there at all")


Corpus = Files | Hub | Images | Vocabulary

_KINDS: Mapping[str, type[Corpus]] = {"files": Files, "hub": Hub, "images": Images, "vocabulary": Vocabulary}


def decode(table: Mapping[str, Any], where: str) -> Corpus:
    """The corpus that a recipe's table describes; which one it is, is told by the one key that it must have."""
    present = [key for key in _KINDS if key in table]
    if len(present) != 1:
        found = " and ".join(present) or f"only {', '.join(table) or 'an empty table'}"
        raise InputError(f"{where} needs exactly one of {', '.join(_KINDS)}, found {found}: keep or add one of them")
    return convert(table, _KINDS[present[0]], where)


def name(corpus: Corpus) -> str:
    """The corpus's own name: its last fixed folder, or its file's stem; safe as part of a path."""
    match corpus:
        case Files():
            own = _glob_name(corpus.files)
        case Images():
            own = _glob_name(corpus.images)
        case Hub():
            own = PurePosixPath(corpus.hub).name
        case Vocabulary():
            own = "vocabulary"
    plain = re.sub(r"[^A-Za-z0-9._-]+|\.{2,}", "-", own).strip("._-")
    return plain[:64].rstrip("._-") or "corpus"


def source(corpus: Corpus, base: str | Path) -> Corpus:
    """The canonical form of `corpus`, the same for everyone who means the same documents.

    Local globs become absolute file:// URLs (relative ones start from `base`, the recipe's folder), remote ones stay
    as they are, and the content's column is spelt out.
    """
    match corpus:
        case Files():
            return msgspec.structs.replace(corpus, files=_absolute(corpus.files, base), text=_text_column(corpus))
        case Images():
            return msgspec.structs.replace(
                corpus, images=_absolute(corpus.images, base), column=corpus.column or "image"
            )
        case Hub():
            return msgspec.structs.replace(corpus, hub=_hub_folder(corpus.hub, base), text=_text_column(corpus))
        case Vocabulary():
            return corpus


def content_column(corpus: Files | Hub | Images) -> tuple[ContentKind, str]:
    """What the documents are, and the column that holds them."""
    if isinstance(corpus, Images):
        return "image", corpus.column or "image"
    if corpus.messages is not None:
        return "messages", corpus.messages
    if corpus.input_ids is not None:
        return "input_ids", corpus.input_ids
    return "text", corpus.text or "text"


def columns(corpus: Files | Hub | Images) -> tuple[str, ...]:
    """Every column that the corpus reads, each once."""
    wanted = (content_column(corpus)[1], *([corpus.id] if corpus.id else []), *corpus.labels)
    return tuple(dict.fromkeys(wanted))


def fixed_folder(pattern: str) -> str:
    """The part of a glob's path that holds no wildcard, up to the last folder."""
    fixed = []
    for segment in pattern.split("/")[:-1]:
        if has_wildcard(segment):
            break
        fixed.append(_ESCAPED.sub(r"\1", segment))
    return "/".join(fixed)


def has_wildcard(pattern: str) -> bool:
    """Whether a glob can match more than one path."""
    return _MAGIC.search(_ESCAPED.sub("", pattern)) is not None


def _glob_name(pattern: str) -> str:
    path = pattern.partition("://")[2] or pattern
    last = path.rpartition("/")[2]
    if not has_wildcard(path):
        return last.partition(".")[0] or last
    return fixed_folder(path).rpartition("/")[2]


def _absolute(pattern: str, base: str | Path) -> str:
    """A local glob as a file:// URL; characters of `base` that a glob would read as wildcards are escaped."""
    if "::" in pattern or ("://" in pattern and not pattern.startswith(("file://", "local://"))):
        return pattern
    path = os.path.expanduser(pattern.partition("://")[2] or pattern)  # noqa: PTH111  pathlib drops a trailing slash
    folder = _MAGIC.sub(r"[\g<0>]", str(Path(base).expanduser().absolute()))
    return "file://" + os.path.normpath(os.path.join(folder, path))  # noqa: PTH118  a glob, not a path


def _hub_folder(hub: str, base: str | Path) -> str:
    if not hub.startswith((".", "/", "~")):
        return hub
    return os.path.normpath(Path(base).expanduser().absolute() / Path(hub).expanduser())


def _text_column(corpus: Files | Hub) -> str | None:
    kind, column = content_column(corpus)
    return column if kind == "text" else None


def _check_content(text: str | None, messages: str | None, input_ids: str | None) -> None:
    given = {"text": text, "messages": messages, "input_ids": input_ids}
    present = [key for key, value in given.items() if value is not None]
    if len(present) > 1:
        raise ValueError(f"a document is one of text, messages and input_ids, found {' and '.join(present)}: keep one")


def _check_labels(labels: tuple[str, ...]) -> None:
    if len(set(labels)) < len(labels):
        raise ValueError(f"labels must differ, found {', '.join(labels)}")
    if taken := [label for label in labels if label in RESERVED]:
        raise ValueError(
            f"label {taken[0]!r} is the name of a column that the token index has itself "
            f"({', '.join(RESERVED)}): rename the corpus's column"
        )
