"""The token index: Parquet parts with a line per span, and the way from a row back to its text."""

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import google_crc32c
import numpy as np

from storage.errors import RunError
from storage.manifest import Part
from storage.url import Folder

if TYPE_CHECKING:
    import pyarrow as pa

Scalar = str | int | float | bool | None

RESERVED = (
    "sequence", "document", "key", "start", "length", "rows", "input_ids", "begin", "end", "roles", "text",
    "text_begin", "image",
)  # fmt: skip
"""Columns of the index; a label may not have one of these names."""

ROLES = ("", "system", "user", "assistant", "tool")
"""Whose message a chat's token belongs to, by its code; 0 is what the template writes around the messages."""


class Span(NamedTuple):
    """Consecutive tokens of one document in one sequence."""

    sequence: int
    """Number within the part; a packed window has several spans with one number."""
    document: int
    """Number within the part; a long document has several spans with one number."""
    key: str
    """The document's id in its corpus."""
    input_ids: np.ndarray
    """int32 [n]."""
    begin: np.ndarray | None
    """Character where each token begins in the document's text, int32 [n]; None where there is no text."""
    end: np.ndarray | None
    """One past the character where each token ends; equal to `begin` for special tokens."""
    text: str | None
    """The piece of the document's text that the span covers."""
    text_begin: int
    """Character where `text` begins in the document's text."""
    labels: Mapping[str, Scalar]
    image: bytes | None
    """The encoded image, for vision models."""
    rows: np.ndarray | None = None
    """Positions within the span of the tokens that are rows, int32, ascending; None where all of them are."""
    roles: np.ndarray | None = None
    """A code of `ROLES` for each token, int8 [n]; None where it is not known, and in all but chats."""

    @property
    def n_rows(self) -> int:
        """How many of its tokens are rows."""
        return len(self.input_ids if self.rows is None else self.rows)


_GROUP = 2048
"""Spans per row group."""
_COUNTS = ("rows", "sequences", "documents", "empty", "longest")
"""What a part's footer says of it."""


def write_part(folder: Folder, name: str, spans: Iterable[Span]) -> Part:
    """Create one part from its spans, in order; a part that is there already is left and described."""
    counts, data = _encode(spans)
    if not folder.create(name, data):
        data = folder.read(name)
    return Part(path=name, size=len(data), crc32c=google_crc32c.value(data), **counts)


def read_part_counts(folder: Folder, name: str) -> Part:
    """The description of a part that is there, from its own footer and bytes."""
    import pyarrow.parquet as pq

    data = folder.read(name)
    metadata = pq.read_metadata(io.BytesIO(data)).metadata or {}
    counts = {field: int(metadata[f"garner.{field}".encode()]) for field in _COUNTS}
    return Part(path=name, size=len(data), crc32c=google_crc32c.value(data), **counts)


def read_part(folder: Folder, part: Part, columns: Sequence[str] | None = None) -> "pa.Table":
    """The lines of one part, once its bytes are known to be those that the plan describes."""
    import pyarrow.parquet as pq

    data = folder.find(part.path)
    if data is None:
        raise RunError(f"{folder / part.path} is lost: bring back a copy, or remove the cache and run its recipe")
    if google_crc32c.value(data) != part.crc32c:
        raise RunError(f"{folder / part.path} is damaged: its checksum is not the one in plan.json")
    return pq.read_table(io.BytesIO(data), columns=None if columns is None else list(columns))


class _Counter:
    """Counts a part's rows, sequences and documents as its spans go by."""

    def __init__(self) -> None:
        self.rows = 0
        self.sequence = self.document = -1
        self.document_rows = 0
        self.empty = 0
        self.longest = 0
        self.open = 0

    def add(self, span: Span) -> int:
        """Count one span; its first row within the part."""
        start = self.rows
        if span.document != self.document:
            self.empty += self.document >= 0 and self.document_rows == 0
            self.document, self.document_rows = span.document, 0
        if span.sequence != self.sequence:
            self.sequence, self.open = span.sequence, 0
        self.rows += span.n_rows
        self.document_rows += span.n_rows
        self.open += span.n_rows
        self.longest = max(self.longest, self.open)
        return start

    def counts(self) -> dict[str, int]:
        empty = self.empty + (self.document >= 0 and self.document_rows == 0)
        return {
            "rows": self.rows,
            "sequences": self.sequence + 1,
            "documents": self.document + 1,
            "empty": int(empty),
            "longest": self.longest,
        }


def _encode(spans: Iterable[Span]) -> tuple[dict[str, int], bytes]:
    """The Parquet bytes of a part, and its counts, which its footer repeats."""
    import pyarrow.parquet as pq

    counter = _Counter()
    tables = list(_tables(spans, counter))
    tables = tables or [_table([])]
    counts = counter.counts()
    table = joined(tables)
    table = table.replace_schema_metadata({f"garner.{field}": str(value) for field, value in counts.items()})
    sink = io.BytesIO()
    pq.write_table(
        table, sink, compression="zstd", use_dictionary=["key"], row_group_size=_GROUP, write_page_index=True
    )
    return counts, sink.getvalue()


def joined(tables: list["pa.Table"]) -> "pa.Table":
    """One table; a label may be null in one batch, an integer in the next and a float in a third."""
    import pyarrow as pa

    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise RunError(f"a label mixes kinds of values ({error}): make it all text or all numbers") from error


def _tables(spans: Iterable[Span], counter: _Counter) -> Iterator["pa.Table"]:
    batch: list[tuple[Span, int]] = []
    for span in spans:
        batch.append((span, counter.add(span)))
        if len(batch) == _GROUP:
            yield _table(batch)
            batch = []
    if batch:
        yield _table(batch)


def _table(batch: list[tuple[Span, int]]) -> "pa.Table":
    import pyarrow as pa

    spans = [span for span, _ in batch]
    columns = {
        "sequence": pa.array([span.sequence for span in spans], pa.int64()),
        "document": pa.array([span.document for span in spans], pa.int64()),
        "key": pa.array([span.key for span in spans], pa.string()),
        "start": pa.array([start for _, start in batch], pa.int64()),
        "length": pa.array([span.n_rows for span in spans], pa.int32()),
        "rows": _lists([span.rows for span in spans], np.int32),
        "input_ids": _lists([span.input_ids for span in spans], np.int32),
        "begin": _lists([span.begin for span in spans], np.int32),
        "end": _lists([span.end for span in spans], np.int32),
        "roles": _lists([span.roles for span in spans], np.int8),
        "text": pa.array([span.text for span in spans], pa.large_string()),
        "text_begin": pa.array([span.text_begin for span in spans], pa.int32()),
        "image": pa.array([span.image for span in spans], pa.large_binary()),
    }
    for label in spans[0].labels if spans else ():
        columns[label] = _label(label, spans)
    return pa.table(columns)


def _label(label: str, spans: list[Span]) -> "pa.Array":
    import pyarrow as pa

    try:
        return pa.array([span.labels[label] for span in spans])
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise RunError(
            f"label {label!r} mixes kinds of values near document {spans[0].key!r} ({error}): "
            "make it all text, all numbers, or all true and false"
        ) from error


def _lists(arrays: list[np.ndarray | None], dtype: type[np.integer[Any]]) -> "pa.Array":
    """Lists of integers without a Python object per token."""
    import pyarrow as pa

    lengths = [0 if array is None else len(array) for array in arrays]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    present = [array for array in arrays if array is not None and len(array)]
    values = np.concatenate(present).astype(dtype) if present else np.zeros(0, dtype)
    mask = pa.array([array is None for array in arrays], pa.bool_())
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values), mask=mask)
