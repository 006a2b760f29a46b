"""Documents of a corpus's files; what a tokenising task is handed."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import assert_never

import fsspec

from pipeline import formats, hub
from pipeline.corpus import ContentKind, Corpus, Files, Hub, Images, Vocabulary, content_column, fixed_folder
from pipeline.corpus import columns as corpus_columns
from storage.errors import RunError
from storage.manifest import SourceFile
from storage.tokens import Scalar
from workers.document import Content, Document, Ids, Image, Messages, Text


def read(corpus: Corpus, files: Sequence[SourceFile]) -> Iterator[Document]:
    """The documents of `files`, in order; `corpus` in the canonical form that `source` gives.

    A vocabulary has none: the tokenizer itself lists its entries.
    """
    if isinstance(corpus, Vocabulary):
        return
    seen: set[str] = set()
    for file in files:
        for key, row in _rows(corpus, file):
            document = _document(corpus, key, row)
            if corpus.id is not None:
                _check_new(document.key, corpus.id, seen)
            yield document


def _rows(corpus: Files | Images | Hub, file: SourceFile) -> Iterator[tuple[str, Mapping[str, object]]]:
    """The rows of one file, each with the key it has where the corpus has no id column."""
    match corpus:
        case Hub():
            for number, row in hub.rows(corpus, file):
                yield f"{file.path.rpartition('/')[2]}:{number}", row
        case Files():
            yield from _file_rows(
                file.path, corpus.files, formats.rows(file.path, corpus_columns(corpus), corpus.split)
            )
        case Images():
            yield from _file_rows(file.path, corpus.images, formats.rows(file.path, corpus_columns(corpus)))
        case _:
            assert_never(corpus)


def _file_rows(path: str, pattern: str, found: Iterator[formats.Row]) -> Iterator[tuple[str, Mapping[str, object]]]:
    short = relative(path, pattern)
    try:
        for number, row in found:
            yield short if number is None else f"{short}:{number}", row
    except (FileNotFoundError, PermissionError) as error:
        raise RunError(f"{path} could be listed but not read: {error}. Put it back or make it readable") from error


def relative(path: str, pattern: str) -> str:
    """The file's path below the glob's fixed folder."""
    fs, inner = fsspec.core.url_to_fs(pattern)
    whole: str = fs._strip_protocol(path)
    return whole.removeprefix(fixed_folder(inner)).lstrip("/")


def _document(corpus: Files | Hub | Images, key: str, row: Mapping[str, object]) -> Document:
    if corpus.id is not None:
        key = _id(key, corpus.id, row.get(corpus.id))
    kind, column = content_column(corpus)
    content = _CONTENT[kind](key, column, row.get(column))
    return Document(key, content, {label: _label(key, label, row.get(label)) for label in corpus.labels})


def _id(key: str, column: str, value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise _wrong(key, f"id column {column!r}", "a string or an integer", value)
    return str(value)


def _check_new(key: str, column: str, seen: set[str]) -> None:
    if key in seen:
        raise RunError(
            f"two documents have the id {key!r} in column {column!r}: make ids unique, or leave `id` out of the corpus"
        )
    seen.add(key)


def _label(key: str, column: str, value: object) -> Scalar:
    if value is None or isinstance(value, str | int | float):
        return value
    raise _wrong(key, f"label {column!r}", "a string, a number or a boolean", value)


def _text(key: str, column: str, value: object) -> Content:
    if not isinstance(value, str):
        raise _wrong(key, f"column {column!r}", "a string", value)
    return Text(value)


def _messages(key: str, column: str, value: object) -> Content:
    if not isinstance(value, list) or not value:
        raise _wrong(key, f"column {column!r}", "a list of messages", value)
    return Messages(tuple(_message(key, column, message) for message in value))


def _message(key: str, column: str, value: object) -> Mapping[str, object]:
    """One message; fields that are null are left out, as Parquet has every field in every message."""
    if not isinstance(value, Mapping) or not all(isinstance(value.get(part), str) for part in ("role", "content")):
        raise _wrong(key, f"column {column!r}", "messages whose role and content are strings", value)
    return {str(field): part for field, part in value.items() if part is not None}


def _ids(key: str, column: str, value: object) -> Content:
    if not isinstance(value, list) or not all(type(one) is int for one in value):
        raise _wrong(key, f"column {column!r}", "a list of integers", value)
    return Ids(tuple(value))


def _image(key: str, column: str, value: object) -> Content:
    data = value.get("bytes") if isinstance(value, Mapping) else value
    if not isinstance(data, bytes):
        raise _wrong(key, f"column {column!r}", "the bytes of an image file", value)
    return Image(data)


_CONTENT: Mapping[ContentKind, Callable[[str, str, object], Content]] = {
    "text": _text,
    "messages": _messages,
    "input_ids": _ids,
    "image": _image,
}


def _wrong(key: str, what: str, wanted: str, value: object) -> RunError:
    found = "nothing (missing or null)" if value is None else f"{type(value).__name__} {value!r:.60}"
    return RunError(f"document {key}: {what} holds {found}, wanted {wanted}. Correct the row or leave it out")
