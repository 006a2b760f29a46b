"""From a row to its token, document, position, labels and text: the token index of a whole cache."""

import io
from collections.abc import Iterator, Sequence
from functools import cached_property
from operator import attrgetter
from typing import TYPE_CHECKING

import numpy as np

from storage.errors import InputError
from storage.lines import at_rows, positions, selected
from storage.segment import Segment
from storage.tokens import RESERVED, joined, read_part

if TYPE_CHECKING:
    import pyarrow as pa

Rows = np.ndarray | slice
"""int64 row numbers over the whole cache, or a slice of them."""


class TokenIndex:
    """The token side of a cache's rows. Columns are read when first asked for, and kept.

    Rows, sequences and documents are numbered over all segments.
    """

    def __init__(self, segments: Sequence[Segment]) -> None:
        self._segments = tuple(segments)
        plans = [segment.plan for segment in self._segments]
        self.n_rows = sum(plan.rows for plan in plans)
        self.n_sequences = sum(plan.sequences for plan in plans)
        self.n_documents = sum(plan.documents for plan in plans)

    def ids(self, rows: Rows) -> np.ndarray:
        """Token ids, int32 [n]."""
        return self._at_rows("input_ids")[0][rows]

    def offsets(self, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
        """Where each token begins and ends in its document's text, in characters, int32 [n] each."""
        if not self.has_text:
            raise InputError("this cache's tokens have no begin and end: its corpus has no text")
        return self._at_rows("begin")[0][rows], self._at_rows("end")[0][rows]

    def roles(self, rows: Rows) -> np.ndarray:
        """Whose message each token belongs to, a code of `storage.tokens.ROLES`, int8 [n].

        0 is what the template writes around messages, and every token of a document whose messages were not found.
        """
        codes, known = self._at_rows("roles")
        if not known.any():
            raise InputError("this cache's tokens have no roles: harvest messages with the tokenisation chat")
        return codes[rows]

    def documents(self, rows: Rows) -> np.ndarray:
        """Document numbers, int64 [n]."""
        return self._spans["document"][self._span_of(rows)]

    def sequences(self, rows: Rows) -> np.ndarray:
        """Sequence numbers, int64 [n]."""
        return self._spans["sequence"][self._span_of(rows)]

    def positions(self, rows: Rows) -> np.ndarray:
        """Position of each token in its sequence, int32 [n], tokens without a row counted."""
        if self.selected:
            return self._positions[rows]
        return (self._numbers(rows) - self._sequence_starts[self._span_of(rows)]).astype(np.int32)

    def strings(self, rows: Rows) -> list[str]:
        """The text of each token; empty for special tokens and where there is no text."""
        begin, end = self.offsets(rows)
        spans = self._span_of(rows)
        shift = self._spans["text_begin"][spans]
        texts = {span: self._texts[span].as_py() or "" for span in np.unique(spans).tolist()}
        places = zip(spans.tolist(), (begin - shift).tolist(), (end - shift).tolist(), strict=True)
        return [texts[span][a:b] for span, a, b in places]

    def context(self, row: int, before: int = 40, after: int = 20) -> tuple[str, str, str]:
        """Up to `before` characters left of a row's token, the token, and up to `after` characters right of it."""
        span = int(self._span_of(np.array([row]))[0])
        text = self._texts[span].as_py() or ""
        shift = int(self._spans["text_begin"][span])
        a, b = (int(edge[0]) - shift for edge in self.offsets(np.array([row])))
        return text[max(a - before, 0) : a], text[a:b], text[b : b + after]

    @cached_property
    def selected(self) -> bool:
        """Whether some tokens have no row, so that the row before another may not be that of the token before it."""
        return any(selected(part) for part in self._parts(["rows"]))

    @cached_property
    def has_text(self) -> bool:
        """Whether every row has its place in a text; images and ready token ids have none."""
        return bool(self._at_rows("begin")[1].all())

    @property
    def label_names(self) -> tuple[str, ...]:
        """Label columns of the corpus."""
        import pyarrow.parquet as pq

        parts = ((segment.folder, part) for segment in self._segments for part in segment.plan.parts)
        folder, path = next((folder, part.path) for folder, part in parts if part.documents)
        schema = pq.read_schema(io.BytesIO(folder.read(path)))
        return tuple(name for name in schema.names if name not in RESERVED)

    def label(self, name: str) -> np.ndarray:
        """One label for every document [n_documents]: numbers, or str objects; None where there is no value."""
        if name not in self.label_names:
            raise InputError(f"there is no label {name!r}; the labels are {', '.join(self.label_names) or 'none'}")
        column = self._column(name).take(self._first_spans)
        if column.null_count:  # NumPy would turn integers into floats to have a NaN
            return np.asarray(column.to_pylist(), dtype=object)
        return np.asarray(column.to_numpy(zero_copy_only=False))

    @cached_property
    def document_ids(self) -> np.ndarray:
        """The id of every document in its corpus, str objects [n_documents]."""
        return np.asarray(self._column("key").take(self._first_spans).to_pylist(), dtype=object)

    def document_rows(self, document: int) -> np.ndarray:
        """All rows of a document in order, int64 [n]."""
        first, stop = np.searchsorted(self._spans["document"], [document, document + 1])
        starts, lengths = self._spans["start"][first:stop], self._spans["length"][first:stop]
        return np.concatenate([np.arange(s, s + n) for s, n in zip(starts, lengths, strict=True)])

    def table(self, columns: Sequence[str] | None = None) -> "pa.Table":
        """The index as one table, a line per span, numbered over the whole cache."""
        return joined(list(self._parts(columns))).combine_chunks()

    def _parts(self, columns: Sequence[str] | None) -> Iterator["pa.Table"]:
        """The parts in order, numbered over the whole cache; one of no documents knows of no label and is passed by."""
        for segment_base, segment in zip(self._bases, self._segments, strict=True):
            for part in filter(attrgetter("documents"), segment.plan.parts):
                table = read_part(segment.folder, part, columns)
                firsts = (part.first_sequence, part.first_document, part.first_row)
                for name, base, first in zip(("sequence", "document", "start"), segment_base, firsts, strict=True):
                    table = _shift(table, name, base + first)
                yield table

    @cached_property
    def _bases(self) -> list[tuple[int, int, int]]:
        """First sequence, document and row of every segment."""
        counts = [(s.plan.sequences, s.plan.documents, s.plan.rows) for s in self._segments]
        sums = np.cumsum(np.array([(0, 0, 0), *counts[:-1]], dtype=np.int64), axis=0)
        return [(int(a), int(b), int(c)) for a, b, c in sums]

    @cached_property
    def _spans(self) -> dict[str, np.ndarray]:
        names = ["sequence", "document", "start", "length", "text_begin"]
        table = self.table(names)
        return {name: table[name].to_numpy().astype(np.int64) for name in names}

    @cached_property
    def _first_spans(self) -> np.ndarray:
        """The first span of every document."""
        return np.searchsorted(self._spans["document"], np.arange(self.n_documents))

    @cached_property
    def _sequence_starts(self) -> np.ndarray:
        """For every span, the first row of its sequence."""
        sequence = self._spans["sequence"]
        return self._spans["start"][np.searchsorted(sequence, sequence)]

    @cached_property
    def _texts(self) -> "pa.ChunkedArray":
        return self._column("text")

    def _column(self, name: str) -> "pa.ChunkedArray":
        return self.table([name])[name]

    @cached_property
    def _positions(self) -> np.ndarray:
        """Of every row in its sequence, int32 [n_rows]."""
        return np.concatenate([positions(part) for part in self._parts(["sequence", "length", "rows", "input_ids"])])

    def _at_rows(self, column: str) -> tuple[np.ndarray, np.ndarray]:
        """A per-token column at every row [n_rows], and whether it has a value there, bool [n_rows]."""
        if column not in self._read:
            values, known = zip(*(at_rows(p, column) for p in self._parts(["length", "rows", column])), strict=True)
            self._read[column] = np.concatenate(values), np.concatenate(known)
        return self._read[column]

    @cached_property
    def _read(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        return {}

    def _numbers(self, rows: Rows) -> np.ndarray:
        return np.arange(*rows.indices(self.n_rows)) if isinstance(rows, slice) else np.asarray(rows)

    def _span_of(self, rows: Rows) -> np.ndarray:
        """The span of each row; no row is in a span of length 0."""
        return np.searchsorted(self._spans["start"], self._numbers(rows), side="right") - 1


def _shift(table: "pa.Table", name: str, by: int) -> "pa.Table":
    import pyarrow.compute as pc

    if name not in table.column_names or by == 0:
        return table
    return table.set_column(table.column_names.index(name), name, pc.add(table[name], by))
