"""The tokenisation task: the files of one part, read, tokenised, and written as one Parquet object."""

import time
from collections.abc import Callable, Iterable, Sequence

from storage.manifest import SourceFile
from storage.segment import Segment, part_name
from storage.tokens import write_part
from storage.url import Folder
from storage.value import Value
from workers.document import Document
from workers.pool import Place
from workers.tokens import Tokenisation, Tokeniser

Read = Callable[[Sequence[SourceFile]], Iterable[Document]]
"""Gives the documents of some files; must be picklable."""


class TokeniseSpec(Value):
    """What every task of one tokenisation shares."""

    source: str
    """The model whose tokenizer is used: hub id or folder."""
    revision: str
    tokenisation: Tokenisation
    segment: str
    """URL of the segment's folder."""
    number: int


class PartReceipt(Value):
    """What a tokenisation says when a part is written."""

    part: int
    documents: int
    rows: int
    seconds: float


class TokenWorker:
    """A loaded tokenizer that turns parts of a corpus into the token index; called once per part."""

    def __init__(self, spec: TokeniseSpec, read: Read, place: Place) -> None:
        self._segment = Segment(Folder(spec.segment), spec.number)
        self._tokeniser = Tokeniser(spec.source, spec.revision or None, spec.tokenisation)
        self._read = read

    def __call__(self, part: int) -> PartReceipt:
        """Write one part; safe to repeat."""
        began, claim = time.monotonic(), self._segment.claimed
        files = [claim.files[n] for n in claim.parts[part]]
        written = write_part(self._segment.folder, part_name(part), self._tokeniser(self._read(files)))
        return PartReceipt(part=part, documents=written.documents, rows=written.rows, seconds=time.monotonic() - began)
