"""What a corpus consists of now: its files, checked before anything is started."""

import difflib
import hashlib
import os
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

import fsspec

from pipeline import formats, hub
from pipeline.corpus import (
    Corpus,
    Files,
    Hub,
    Images,
    Vocabulary,
    columns,
    content_column,
    fixed_folder,
    has_wildcard,
)
from pipeline.readers import read
from storage.errors import InputError
from storage.manifest import SourceFile
from storage.value import Value

PART_SIZE = 64 * 2**20
"""Bytes of files that one tokenising task reads, unless a single file is larger."""
_SHOWN = 6
"""Names listed in a message."""


class CorpusFacts(Value):
    """What a corpus consists of."""

    files: tuple[SourceFile, ...]
    """In the order in which they are read; a vocabulary is one file without size."""


def survey(corpus: Corpus) -> CorpusFacts:
    """The corpus's files, listed and checked: columns, readable, not empty; `corpus` in its canonical form."""
    match corpus:
        case Vocabulary():
            return CorpusFacts(files=(SourceFile(path="vocabulary:", size=0),))
        case Hub():
            files = _look(corpus)
        case Files():
            files = _list(corpus.files)
            _check_formats(corpus, files)
        case Images():
            files = _list(corpus.images)
            _check_formats(corpus, files)
    _check_documents(corpus, files)
    return CorpusFacts(files=files)


def parts(facts: CorpusFacts, size: int = PART_SIZE) -> tuple[tuple[SourceFile, ...], ...]:
    """Consecutive files in groups of at most `size` bytes; a larger file is a group by itself."""
    groups: list[list[SourceFile]] = []
    held = 0
    for file in facts.files:
        if not groups or held + file.size > size:
            groups.append([])
            held = 0
        groups[-1].append(file)
        held += file.size
    return tuple(tuple(group) for group in groups)


def digest(file: SourceFile) -> str:
    """What the file's contents hash to: the store's etag if it keeps one, else the SHA-256 of the bytes."""
    if file.digest or file.path == "vocabulary:":
        return file.digest
    fs, path = fsspec.core.url_to_fs(file.path)
    if etag := _etag(fs.info(path)):
        return etag
    with fs.open(path, "rb") as stream:
        sha = hashlib.sha256()
        while block := stream.read(2**20):
            sha.update(block)
    return sha.hexdigest()


def _list(pattern: str) -> tuple[SourceFile, ...]:
    fs, path = _file_system(pattern)
    try:
        fs.invalidate_cache()
        found = fs.glob(path, detail=True)
    except PermissionError as error:
        raise _unreadable(pattern, error) from error
    files = {name: info for name, info in found.items() if info["type"] == "file" and not _hidden(name, path)}
    if not files:
        raise InputError(_no_match(fs, pattern, path))
    return tuple(_source_file(fs, name, info) for name, info in sorted(files.items()))


def _file_system(pattern: str) -> tuple[Any, str]:
    try:
        fs, path = fsspec.core.url_to_fs(pattern)
    except (ImportError, ValueError) as error:
        raise InputError(
            f"cannot open {pattern} ({error}): name local files, or install the fsspec package of that scheme"
        ) from error
    return fs, path


def _hidden(name: str, pattern: str) -> bool:
    below = name.removeprefix(fixed_folder(pattern)).lstrip("/")
    return any(part.startswith(".") for part in below.split("/"))


def _source_file(fs: Any, name: str, info: dict[str, Any]) -> SourceFile:
    return SourceFile(path=fs.unstrip_protocol(name), size=int(info["size"] or 0), stamp=_stamp(name, info))


def _stamp(name: str, info: dict[str, Any]) -> str:
    """The store's etag, or the time of the last change."""
    if etag := _etag(info):
        return etag
    if "ino" in info:
        return str(os.stat(name).st_mtime_ns)  # noqa: PTH116  a path that fsspec gave
    changed = next((info[key] for key in ("mtime", "LastModified", "updated", "created") if info.get(key)), "")
    return str(changed)


def _etag(info: dict[str, Any]) -> str:
    return str(info.get("ETag") or info.get("etag") or "").strip('"')


def _no_match(fs: Any, pattern: str, path: str) -> str:
    """Says where was looked, and what is there instead."""
    if not has_wildcard(pattern) and fs.isdir(path):
        return f"{pattern} is a folder: wanted a glob of files, such as {pattern.rstrip('/')}/*.jsonl"
    folder = fixed_folder(path)
    try:
        there = sorted(PurePosixPath(entry).name for entry in fs.ls(folder, detail=False))
    except FileNotFoundError:
        return f"no file matches {pattern}: there is no folder {folder or '/'}. Correct the corpus's glob"
    except PermissionError as error:
        raise _unreadable(folder, error) from error
    wanted = path.removeprefix(folder).lstrip("/")
    near = difflib.get_close_matches(wanted, there, n=_SHOWN, cutoff=0.0)
    listed = f"{', '.join(near)}{' and others' if len(there) > len(near) else ''}" if there else "nothing"
    return f"no file matches {pattern}: {folder or '/'} holds {listed}. Correct the corpus's glob"


def _unreadable(path: str, error: Exception) -> InputError:
    return InputError(f"no permission to read {path} ({error}): make it readable, or leave it out of the corpus")


def _check_formats(corpus: Files | Images, files: Sequence[SourceFile]) -> None:
    """Every file's suffix, and the columns of the first file of each format."""
    first: dict[formats.Format, SourceFile] = {}
    for file in files:
        kind = _checked_format(corpus, file.path)
        _check_permission(file.path)
        if file.size:
            first.setdefault(kind, file)
    if not first:
        raise InputError(f"the corpus is empty: {len(files)} files, 0 bytes in all; first {files[0].path}. Fill them")
    for kind, file in first.items():
        _check_kind(corpus, kind, file.path)
        _check_columns(corpus, kind, file.path)


def _checked_format(corpus: Files | Images, path: str) -> formats.Format:
    images = isinstance(corpus, Images)
    known = (*formats.PICTURES, ".parquet") if images else (*formats.FORMATS, "and text formats with .gz")
    kind = formats.format_of(path)
    if kind is None or (kind not in ("image", "parquet") if images else kind == "image"):
        raise InputError(
            f"{path}: the suffix tells the format; wanted one of {', '.join(known)}. Rename the file or narrow the glob"
        )
    return kind


def _check_permission(path: str) -> None:
    fs, inner = fsspec.core.url_to_fs(path)
    if "file" in fs.protocol and not os.access(inner, os.R_OK):
        raise _unreadable(path, PermissionError("the file's mode forbids it"))


def _check_kind(corpus: Files | Images, kind: formats.Format, path: str) -> None:
    """Whether the format can hold what the corpus asks of it."""
    content, _ = content_column(corpus)
    if content in ("messages", "input_ids") and kind in ("csv", "tsv"):
        raise InputError(f"{path}: CSV has no lists, so it cannot hold {content}: use JSON lines or Parquet")
    if isinstance(corpus, Files) and corpus.split != "file" and kind != "text":
        raise InputError(f"{path}: split = {corpus.split!r} is for .txt and .md; here every row is a document: drop it")


def _check_columns(corpus: Files | Images, kind: formats.Format, path: str) -> None:
    try:
        found = formats.columns(path)
    except PermissionError as error:
        raise _unreadable(path, error) from error
    wanted = columns(corpus)
    if found and not set(wanted) <= set(found):
        raise InputError(formats.missing(path, wanted, tuple(found)))
    content, column = content_column(corpus)
    if kind == "parquet" and content == "text" and "string" not in found[column]:
        raise InputError(f"{path}: column {column!r} holds {found[column]}, wanted strings: name another, or cast it")


def _look(corpus: Hub) -> tuple[SourceFile, ...]:
    shards, found = hub.look(corpus)
    wanted = columns(corpus)
    if not set(wanted) <= set(found):
        raise InputError(formats.missing(f"data set {corpus.hub!r}", wanted, found))
    return shards


def _check_documents(corpus: Corpus, files: Sequence[SourceFile]) -> None:
    """Reads up to the first document."""
    if next(read(corpus, files), None) is None:
        raise InputError(f"the corpus is empty: {len(files)} files without a row; first {files[0].path}. Fill them")
