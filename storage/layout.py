"""How rows are cut into chunks, shards and units: sized here, once, and nowhere else."""

from collections.abc import Sequence
from typing import Literal

from storage.dtype import DtypeName, stored, stored_width
from storage.errors import InputError
from storage.value import Value

Compress = Literal["none", "zstd"]
"""How inner chunks are compressed. Raw rows can be mapped and read by byte range; zstd is for slow links."""

CHUNK_BYTES = 2**20
"""Inner chunk: what a generic Zarr reader decodes to reach one row."""
SHARD_BYTES = 64 * 2**20
"""Shard: one object, one PUT."""
UNIT_ROWS = 2**16
"""Fewest rows that one task owns."""
WINDOW_ROWS = 2**15
"""Rows whose sequences are sorted by length before they are cut into batches: four batches' worth."""
UNIT_SEQUENCES = 8
"""A unit holds at least this many of the longest sequence, so that what two units both run stays under an eighth."""


class Layout(Value):
    """How one site's rows lie in objects."""

    rows: int
    """Rows in the segment."""
    d: int
    """Width of a row."""
    dtype: DtypeName
    """Stored dtype."""
    rows_per_chunk: int
    """Rows of an inner chunk; a power of two."""
    rows_per_shard: int
    """Rows of a shard; a power of two, a multiple of the chunk."""
    compress: Compress = "none"

    @property
    def width(self) -> int:
        """Entries of a stored row."""
        return stored_width(self.dtype, self.d)

    @property
    def row_bytes(self) -> int:
        """Bytes of a stored row before it is compressed."""
        return self.width * stored(self.dtype).itemsize

    @property
    def chunk_bytes(self) -> int:
        """Bytes of an inner chunk before it is compressed."""
        return self.rows_per_chunk * self.row_bytes

    @property
    def chunks_per_shard(self) -> int:
        return self.rows_per_shard // self.rows_per_chunk

    @property
    def n_shards(self) -> int:
        return -(-self.rows // self.rows_per_shard)

    def shard_range(self, shard: int) -> tuple[int, int]:
        """First row, and one past the last, of a shard."""
        return shard * self.rows_per_shard, min((shard + 1) * self.rows_per_shard, self.rows)

    def shards_within(self, first: int, stop: int) -> range:
        """Shards of the rows [first, stop), which begin at a shard's edge."""
        return range(first // self.rows_per_shard, -(-min(stop, self.rows) // self.rows_per_shard))

    def chunks_in(self, shard: int) -> int:
        """Inner chunks of a shard that hold at least one row."""
        first, stop = self.shard_range(shard)
        return -(-(stop - first) // self.rows_per_chunk)


def rows_per_unit(longest: int, wanted: int = UNIT_ROWS) -> int:
    """Rows that one task owns: a power of two, at least `wanted` and eight times the longest sequence."""
    return _power_of_two_from(max(wanted, UNIT_SEQUENCES * longest, 1))


def layout(rows: int, d: int, dtype: DtypeName, unit: int, shard_bytes: int, compress: Compress = "none") -> Layout:
    """The layout of one site in a segment whose units have `unit` rows, in shards of at most `shard_bytes`."""
    row_bytes = stored_width(dtype, d) * stored(dtype).itemsize
    rows_per_shard = min(unit, _power_of_two_to(max(shard_bytes // row_bytes, 1)))
    rows_per_chunk = min(rows_per_shard, _power_of_two_to(max(CHUNK_BYTES // row_bytes, 1)))
    return Layout(
        rows=rows, d=d, dtype=dtype, rows_per_chunk=rows_per_chunk, rows_per_shard=rows_per_shard, compress=compress
    )


def shard_bytes(mib: int | None = None) -> int:
    """Most bytes of a shard, of so many MiB if they are given."""
    return SHARD_BYTES if mib is None else mib * 2**20


def memory_bound(layouts: Sequence[Layout]) -> int:
    """Bytes of shards that one harvester holds at most: those of a window being filled, one begun, two being written.

    Sequences are run in windows, so a site of shorter shards has several open. An object store takes a shard in one
    piece, and a compressed one is made beside the raw: one more for each being written.
    """
    return sum((WINDOW_ROWS // one.rows_per_shard + 5) * one.rows_per_shard * one.row_bytes for one in layouts)


def check_unit(rows: int) -> int:
    """`rows`, once it is known to be a power of two, which whole shards of every width need."""
    if rows < 1 or rows & (rows - 1):
        raise InputError(f"unit = {rows}: a unit's rows must be a power of two, for instance {UNIT_ROWS}")
    return rows


def _power_of_two_from(n: int) -> int:
    return 1 << (n - 1).bit_length()


def _power_of_two_to(n: int) -> int:
    return 1 << (n.bit_length() - 1)
