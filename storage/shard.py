"""One shard as bytes: raw rows, then the Zarr v3 shard index. Written at the speed of a raw file."""

import struct
from collections.abc import Sequence

import google_crc32c
import numpy as np

from storage.dtype import fill, logical, stored
from storage.errors import RunError
from storage.layout import Layout
from storage.moments import Moments, measure
from storage.url import Folder
from storage.value import Value

_MISSING = 2**64 - 1


class ShardMark(Value):
    """What a whole shard is known by."""

    shard: int
    """Number of the shard in its segment."""
    size: int
    """Length of the object in bytes."""
    crc32c: int
    """CRC-32C of the whole object."""
    chunks: tuple[int, ...]
    """CRC-32C of every inner chunk that holds rows, in row order."""


def key(shard: int) -> str:
    """The name of the shard's object in its array (Zarr's default encoding with '.' as separator)."""
    return f"c.{shard}.0"


def empty_rows(layout: Layout, shard: int) -> np.ndarray:
    """A buffer for the shard's rows, padded to whole chunks with the fill value, in the logical dtype [r, d]."""
    rows = layout.chunks_in(shard) * layout.rows_per_chunk
    return np.full((rows, layout.d), fill(layout.dtype), dtype=stored(layout.dtype)).view(logical(layout.dtype))


def index(layout: Layout, shard: int) -> bytes:
    """The shard index: offset and length of every inner chunk, missing ones as all ones, and a CRC-32C."""
    size = layout.rows_per_chunk * layout.row_bytes
    present = layout.chunks_in(shard)
    pairs = [(i * size, size) if i < present else (_MISSING, _MISSING) for i in range(layout.chunks_per_shard)]
    body = b"".join(struct.pack("<QQ", offset, length) for offset, length in pairs)
    return body + struct.pack("<I", google_crc32c.value(body))


def write(folder: Folder, layout: Layout, shard: int, x_RD: np.ndarray) -> tuple[ShardMark, Moments]:
    """Create the shard from its padded rows; if it is there already, adopt what is there.

    A killed or parallel attempt may have written the shard: then its bytes stand, and the mark is made from them.
    """
    payload, footer = x_RD.view(np.uint8).reshape(-1), index(layout, shard)
    if not folder.create(key(shard), payload.data, footer):
        return adopt(folder, layout, shard)
    return _mark(layout, shard, payload, footer), _moments(layout, shard, x_RD)


def adopt(folder: Folder, layout: Layout, shard: int) -> tuple[ShardMark, Moments]:
    """The mark and moments of a shard that is there, from its own bytes."""
    data = folder.read(key(shard))
    footer = index(layout, shard)
    payload = np.frombuffer(data, np.uint8)[: -len(footer)]
    expected = layout.chunks_in(shard) * layout.rows_per_chunk * layout.row_bytes
    if len(payload) != expected or data[-len(footer) :] != footer:
        raise RunError(
            f"{folder / key(shard)} is not a whole shard: {len(data)} bytes where {expected + len(footer)} were "
            "expected; no writer of ours leaves such an object, so delete it and run again"
        )
    x_RD = payload.view(logical(layout.dtype)).reshape(-1, layout.d)
    return _mark(layout, shard, payload, footer), _moments(layout, shard, x_RD)


def chunk_crcs(payload: np.ndarray, chunk_bytes: int) -> tuple[int, ...]:
    """CRC-32C of every `chunk_bytes` bytes of a uint8 array."""
    return tuple(int(google_crc32c.value(payload[at : at + chunk_bytes])) for at in range(0, len(payload), chunk_bytes))


def crc32c(parts: Sequence[np.ndarray | bytes]) -> int:
    """CRC-32C of the parts one after the other."""
    crc = 0
    for part in parts:
        crc = google_crc32c.extend(crc, part)
    return int(crc)


def _mark(layout: Layout, shard: int, payload: np.ndarray, footer: bytes) -> ShardMark:
    return ShardMark(
        shard=shard,
        size=len(payload) + len(footer),
        crc32c=crc32c((payload, footer)),
        chunks=chunk_crcs(payload, layout.rows_per_chunk * layout.row_bytes),
    )


def _moments(layout: Layout, shard: int, x_RD: np.ndarray) -> Moments:
    first, stop = layout.shard_range(shard)
    return measure(x_RD[: stop - first])
