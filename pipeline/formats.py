"""Rows of one file, whatever its format: text, JSON lines, CSV, Parquet, an image."""

import csv
import gzip
import itertools
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import IO, Any, Literal, NoReturn

import fsspec
import msgspec

from pipeline.corpus import Split
from storage.errors import GarnerError, InputError, RunError

Format = Literal["text", "json", "csv", "tsv", "parquet", "image"]
Row = tuple[int | None, Mapping[str, object]]
"""Number within the file, from 0 (None where the file is one document), and the values by column."""

FORMATS: Mapping[str, Format] = {
    ".txt": "text",
    ".md": "text",
    ".jsonl": "json",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")

_BATCH = 128
"""Rows held at a time from Parquet, where a row may be an image of megabytes."""
_LOOK = 100
"""JSON objects looked at for columns, for an object may leave some out."""
_FIELD = 2**31 - 1
"""The longest CSV field, in characters."""


def format_of(path: str) -> Format | None:
    """The format that a file's suffix tells, or None; `.gz` may follow the suffix of a text format."""
    pure = PurePosixPath(path.lower())
    if pure.suffix in PICTURES:
        return "image"
    if pure.suffix == ".gz":
        inner = FORMATS.get(PurePosixPath(pure.stem).suffix)
        return inner if inner != "parquet" else None
    return FORMATS.get(pure.suffix)


def rows(path: str, wanted: Sequence[str], split: Split = "file") -> Iterator[Row]:
    """The rows of one file, streamed; damage is a `RunError` that says where it is."""
    kind = format_of(path)
    with _open(path) as file:
        match kind:
            case "text":
                yield from _text_rows(path, file, split)
            case "json":
                yield from _json_rows(path, file)
            case "csv" | "tsv":
                yield from _csv_rows(path, file, wanted)
            case "parquet":
                yield from _parquet_rows(path, file, wanted)
            case "image":
                yield None, {"image": file.read()}
            case None:
                raise InputError(f"{path} has no suffix that garner reads")


def columns(path: str) -> dict[str, str]:
    """The file's columns and, in Parquet, their types; of JSON lines those of its first objects."""
    kind = format_of(path)
    if kind == "parquet":
        with _open(path) as file:
            return {field.name: str(field.type) for field in _parquet_file(path, file).schema_arrow}
    if kind in ("csv", "tsv"):
        with _open(path) as file:
            return dict.fromkeys(_csv_header(path, _csv_reader(path, file)), "string")
    looked = itertools.islice(rows(path, ()), _LOOK if kind == "json" else 1)
    return {column: "" for _, row in looked for column in row}


def missing(path: str, wanted: Sequence[str], found: Sequence[str]) -> str:
    """What to say of columns that a file does not have."""
    lacking = ", ".join(repr(name) for name in wanted if name not in found)
    listed = ", ".join(found) or "none"
    return f"{path} has no column {lacking}; its columns: {listed}. Name one of these in the corpus, or add the column"


@contextmanager
def _open(path: str) -> Iterator[IO[bytes]]:
    compression = "gzip" if path.lower().endswith(".gz") else None
    try:
        with fsspec.open(path, "rb", compression=compression) as file:
            yield file
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise RunError(f"{path} is damaged: {error}. Compress or copy it again") from error


def _lines(path: str, file: IO[bytes]) -> Iterator[tuple[int, str]]:
    """Numbered lines, line ends kept: only \\n ends a line, so what precedes it (\\r too) is the document's own."""
    for number, raw in enumerate(file, start=1):
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise RunError(
                f"{path}, line {number}: byte 0x{raw[error.start]:02x} is not UTF-8. Convert the file to UTF-8, "
                "or leave it out of the corpus"
            ) from error
        yield number, line


def _text_rows(path: str, file: IO[bytes], split: Split) -> Iterator[Row]:
    match split:
        case "file":
            yield None, {"text": "".join(line for _, line in _lines(path, file))}
        case "line":
            for number, line in _lines(path, file):
                if line.strip():
                    yield number - 1, {"text": line.rstrip("\r\n")}
        case "paragraph":
            for number, text in enumerate(_paragraphs(line for _, line in _lines(path, file))):
                yield number, {"text": text}


def _paragraphs(lines: Iterator[str]) -> Iterator[str]:
    """Runs of lines between blank ones."""
    held: list[str] = []
    for line in lines:
        if line.strip():
            held.append(line)
        elif held:
            yield "".join(held).rstrip("\r\n")
            held = []
    if held:
        yield "".join(held).rstrip("\r\n")


def _json_rows(path: str, file: IO[bytes]) -> Iterator[Row]:
    decoder = msgspec.json.Decoder(dict[str, Any])
    for number, line in _lines(path, file):
        if not line.strip():
            continue
        try:
            yield number - 1, decoder.decode(line)
        except msgspec.DecodeError as error:
            raise RunError(
                f"{path}, line {number}: wanted one JSON object, found {line.strip()[:60]!r} ({error}). "
                "Write one object per line, or leave the file out of the corpus"
            ) from error


def _csv_reader(path: str, file: IO[bytes]) -> Any:
    csv.field_size_limit(_FIELD)  # one setting for the process; its default refuses documents of 128 Ki characters
    delimiter = "\t" if format_of(path) == "tsv" else ","
    return csv.reader((line for _, line in _lines(path, file)), delimiter=delimiter, strict=True)


def _csv_header(path: str, reader: Any) -> list[str]:
    try:
        header: list[str] = next(reader, [])
    except csv.Error as error:
        raise RunError(f"{path}, line {reader.line_num}: {error}. Quote the field as CSV asks") from error
    if len(set(header)) < len(header):
        raise InputError(f"{path} names a column twice ({', '.join(header)}): rename one of them")
    return header


def _csv_rows(path: str, file: IO[bytes], wanted: Sequence[str]) -> Iterator[Row]:
    reader = _csv_reader(path, file)
    header = _csv_header(path, reader)
    _require(path, wanted, header)
    number = 0
    try:
        for fields in reader:
            if not fields:
                continue
            if len(fields) != len(header):
                _ragged(path, reader.line_num, len(fields), len(header))
            yield number, dict(zip(header, fields, strict=True))
            number += 1
    except csv.Error as error:
        raise RunError(f"{path}, line {reader.line_num}: {error}. Quote the field as CSV asks") from error


def _ragged(path: str, line: int, found: int, wanted: int) -> NoReturn:
    raise RunError(
        f"{path}, line {line}: {found} fields where the header has {wanted}. Quote fields that hold delimiters, "
        "or leave the row out"
    )


def _require(path: str, wanted: Sequence[str], found: Sequence[str]) -> None:
    if not set(wanted) <= set(found):
        raise RunError(missing(path, wanted, found))


def _parquet_file(path: str, file: IO[bytes]) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(file, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from error


def _parquet_rows(path: str, file: IO[bytes], wanted: Sequence[str]) -> Iterator[Row]:
    """Rows by row group; only the columns wanted are read."""
    import pyarrow as pa

    parquet = _parquet_file(path, file)
    _require(path, wanted, parquet.schema_arrow.names)
    number = 0
    batches = parquet.iter_batches(batch_size=_BATCH, columns=list(wanted))
    while True:
        try:
            batch = next(batches, None)
        except (pa.ArrowException, OSError) as error:
            raise _damaged(f"{path}, after row {number}", error) from error
        if batch is None:
            return
        for row in _pylist(path, batch, number):
            yield number, row
            number += 1


def _pylist(path: str, batch: Any, first: int) -> list[dict[str, object]]:
    """Python values of a batch. Strings are checked only here: Parquet files may hold bytes that are not UTF-8."""
    try:
        rows: list[dict[str, object]] = batch.to_pylist()
        return rows
    except UnicodeDecodeError:
        for index in range(batch.num_rows):
            try:
                batch.slice(index, 1).to_pylist()
            except UnicodeDecodeError as error:
                raise RunError(
                    f"{path}, row {first + index}: a string is not UTF-8 ({error}). Write its text as UTF-8"
                ) from error
        raise


def _damaged(where: str, error: Exception) -> GarnerError:
    if isinstance(error, OSError) and error.errno is not None:  # the disk's or the network's doing, not the file's
        raise error
    return RunError(f"{where}: damaged Parquet ({error}). Write or copy the file again")
