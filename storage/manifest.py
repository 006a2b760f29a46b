"""The records of a cache: what it is, what a segment took, who wrote which rows, and the seals.

Every record is one JSON object, created once. `docs/format.md` describes them for readers without this code.
"""

from typing import Any, TypeVar

import msgspec

from storage.dtype import DtypeName, FloatName
from storage.errors import InputError
from storage.layout import WINDOW_ROWS, Compress, Layout
from storage.moments import Moments
from storage.shard import ShardMark
from storage.value import Value, decode, identity, unsigned

T = TypeVar("T")

SCHEMA = 2


class ModelIdentity(Value):
    """What of a model changes its numbers."""

    name: str
    """Its own name: the last part of a hub id or folder."""
    revision: str
    """Commit of a hub model; empty for a folder."""
    weights: str
    """SHA-256 over the weight files."""
    config: str
    """SHA-256 of the configuration."""
    dtype: FloatName
    """Number type of the forward pass."""


class CacheIdentity(Value):
    """All that changes the numbers of a cache; its hash is the cache's id."""

    model: ModelIdentity
    tokenizer: str
    """SHA-256 of the tokenizer's or image processor's files."""
    corpus: dict[str, Any]
    """Where documents come from, in canonical form."""
    tokenisation: dict[str, Any]
    """How documents become sequences."""
    dtype: DtypeName
    """Stored number type."""


class CacheRecord(Value):
    """`cache.json`: written first, never changed."""

    schema: int
    name: str
    """`<model>.<corpus>`, from their own names."""
    id: str
    """Identity hash."""
    identity: CacheIdentity
    made: dict[str, str]
    """Provenance that does not change the numbers: where the model was read, when, and by which versions."""

    @property
    def folder(self) -> str:
        return f"{self.name}-{self.id}"


class SourceFile(Value):
    """One file of a corpus as it was when a segment took it."""

    path: str
    """Its URL."""
    size: int
    """Bytes."""
    stamp: str = ""
    """Modification time in nanoseconds, or the store's etag."""
    digest: str = ""
    """SHA-256 of a local file, the etag of a remote one."""


class Claim(Value):
    """`files.json`: the files a segment takes, and how they are cut into parts; written before anything is read."""

    files: tuple[SourceFile, ...]
    parts: tuple[tuple[int, ...], ...]
    """For each token part, the indices of its files."""
    unit: int
    """Rows wanted for a unit."""
    shard_bytes: int
    """Most bytes of a shard before it is compressed."""
    compress: Compress = "none"


class Part(Value):
    """One Parquet file of the token index."""

    path: str
    """Relative to the segment."""
    rows: int
    sequences: int
    documents: int
    empty: int
    """Documents without a single row; they have a line in the index all the same."""
    longest: int
    """Rows of the sequence that has most."""
    size: int
    """Bytes of the object."""
    crc32c: int
    first_row: int = 0
    first_sequence: int = 0
    first_document: int = 0


class Plan(Value):
    """`plan.json`: written once the tokens are; fixes every row's number."""

    schema: int
    files: tuple[SourceFile, ...]
    parts: tuple[Part, ...]
    rows: int
    sequences: int
    documents: int
    longest: int
    rows_per_unit: int
    shard_bytes: int
    compress: Compress

    @property
    def n_units(self) -> int:
        return -(-self.rows // self.rows_per_unit)

    @property
    def window(self) -> int:
        """Rows whose sequences are sorted together; it depends on nothing else, for the bits of a row depend on it."""
        return min(WINDOW_ROWS, self.rows_per_unit)

    def unit_range(self, unit: int) -> tuple[int, int]:
        """First row, and one past the last, of a unit."""
        return unit * self.rows_per_unit, min((unit + 1) * self.rows_per_unit, self.rows)


class Mark(Value):
    """`done/<site>/<unit>.json`: the unit's shards of that site are whole."""

    unit: int
    rows: int
    attempt: str
    """Which attempt wrote it."""
    worker: str
    """Host and process."""
    seconds: float
    """Wall time of the whole unit."""
    moments: Moments
    shards: tuple[ShardMark, ...]


class Seal(Value):
    """`sealed/<site>.json`: written last; its presence makes the site readable."""

    site: str
    layout: Layout
    metadata: int
    """CRC-32C of the array's zarr.json."""
    moments: Moments
    shards: tuple[ShardMark, ...]


def make_record(name: str, what: CacheIdentity, made: dict[str, str]) -> CacheRecord:
    """The record of the cache with that identity."""
    return CacheRecord(schema=SCHEMA, name=name, id=identity(what), identity=what, made=made)


class _Versioned(msgspec.Struct):
    """What every record of every schema says."""

    schema: int


def read_versioned(data: bytes, kind: type[T], where: str) -> T:
    """A record that says its schema: another schema is refused before anything else of it is looked at."""
    found = _schema(data)
    if found == 1:
        raise InputError(
            f"{where} has schema 1, whose records had no checksum and which no release of garner wrote; this one reads "
            f"schema {SCHEMA}: harvest it again into another lake"
        )
    body = unsigned(data, where)
    if found is not None and found > SCHEMA:
        raise InputError(f"{where} has schema {found}; this garner reads schema {SCHEMA}: upgrade garner to open it")
    return decode(body, kind, where)


def _schema(data: bytes) -> int | None:
    try:
        return msgspec.json.decode(data, type=_Versioned).schema
    except msgspec.MsgspecError:
        return None
