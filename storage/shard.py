"""One shard as bytes: inner chunks in row order, then the Zarr v3 shard index. Written at the speed of a raw file.

R: rows of a shard, W: entries of a stored row.
"""

from collections.abc import Sequence

import google_crc32c
import msgspec
import numpy as np

from storage.dtype import decode, fill, rounding, stored
from storage.errors import RunError
from storage.layout import Layout
from storage.moments import Moments, measure
from storage.url import Buffer, Folder
from storage.value import Value

_MISSING = 2**64 - 1
LEVEL = 1
"""Of zstd: on bfloat16 activations level 3 saves no more and takes half as long again."""


class ShardMark(Value):
    """What a whole shard is known by."""

    shard: int
    """Number of the shard in its segment."""
    size: int
    """Length of the object in bytes."""
    chunks: tuple[int, ...]
    """CRC-32C of every inner chunk that holds rows as it is stored, in row order."""
    lengths: tuple[int, ...] = ()
    """Bytes of these chunks as they are stored; empty where none is compressed, for then all are alike."""


def key(shard: int) -> str:
    """The name of the shard's object in its array (Zarr's default encoding with '.' as separator)."""
    return f"c.{shard}.0"


def empty_rows(layout: Layout, shard: int, spare: list[np.ndarray] | None = None) -> np.ndarray:
    """A buffer for the shard's stored rows, [R, W], or one of `spare` that fits; its padding holds the fill value."""
    first, stop = layout.shard_range(shard)
    shape = layout.chunks_in(shard) * layout.rows_per_chunk, layout.width
    fitting = [n for n, one in enumerate(spare or ()) if (one.shape, one.dtype) == (shape, stored(layout.dtype))]
    x_RW = spare.pop(fitting[0]) if spare and fitting else np.empty(shape, stored(layout.dtype))
    x_RW[stop - first :] = fill(layout.dtype)
    return x_RW


def index(layout: Layout, lengths: Sequence[int]) -> bytes:
    """The shard index: offset and length of every inner chunk, missing ones as all ones, and a CRC-32C."""
    pairs = np.full((layout.chunks_per_shard, 2), _MISSING, "<u8")
    pairs[: len(lengths), 1] = lengths
    pairs[: len(lengths), 0] = np.cumsum(lengths) - lengths
    body = pairs.tobytes()
    return body + google_crc32c.value(body).to_bytes(4, "little")


def lengths(layout: Layout, mark: ShardMark) -> tuple[int, ...]:
    """Stored bytes of the shard's inner chunks that hold rows."""
    return mark.lengths or (layout.chunk_bytes,) * layout.chunks_in(mark.shard)


def write(folder: Folder, layout: Layout, shard: int, x_RW: np.ndarray) -> tuple[ShardMark, Moments]:
    """Create the shard from its padded rows; if it is there already, adopt what is there.

    A killed or parallel attempt may have written the shard: then its bytes stand, and the mark is made from them.
    """
    chunks = [_compressed(layout, chunk) for chunk in _cut(layout, x_RW)]
    footer = index(layout, [len(chunk) for chunk in chunks])
    if not folder.create(key(shard), *chunks, footer):
        return adopt(folder, layout, shard)
    return _mark(layout, shard, chunks, footer), _moments(layout, shard, x_RW)


def adopt(folder: Folder, layout: Layout, shard: int) -> tuple[ShardMark, Moments]:
    """The mark and moments of a shard that is there, from its own bytes."""
    folder.settle()
    data = folder.read(key(shard))
    found = parse(layout, shard, data)
    try:
        x_RW = np.concatenate([decompressed(layout, chunk) for chunk in found or ()])
    except (ValueError, RuntimeError) as error:  # no chunk, or none that zstd knows
        raise RunError(
            f"{folder / key(shard)} is not a whole shard ({len(data)} bytes); no writer of ours leaves such an "
            "object, so delete it and run again"
        ) from error
    assert found is not None
    return _mark(layout, shard, found, data[sum(map(len, found)) :]), _moments(layout, shard, x_RW)


def parse(layout: Layout, shard: int, data: bytes) -> list[memoryview] | None:
    """The inner chunks of a shard's bytes as they are stored; None if its index is not one that we write."""
    present, size = layout.chunks_in(shard), 16 * layout.chunks_per_shard + 4
    if len(data) < size:
        return None
    pairs = np.frombuffer(data, "<u8", 2 * layout.chunks_per_shard, len(data) - size).reshape(-1, 2)
    sizes = [int(length) for length in pairs[:present, 1]]
    raw = layout.compress == "none"
    if (raw and set(sizes) != {layout.chunk_bytes}) or max(sizes) > len(data) or sum(sizes) + size != len(data):
        return None
    if index(layout, sizes) != data[-size:]:
        return None
    ends = np.cumsum(sizes).tolist()
    return [memoryview(data)[end - length : end] for end, length in zip(ends, sizes, strict=True)]


def decompressed(layout: Layout, chunk: Buffer) -> np.ndarray:
    """Stored rows of one inner chunk, [rows_per_chunk, W]."""
    if layout.compress == "zstd":
        from numcodecs import zstd

        chunk = zstd.decompress(chunk)
    return np.frombuffer(chunk, stored(layout.dtype)).reshape(-1, layout.width)


def _cut(layout: Layout, x_RW: np.ndarray) -> list[memoryview]:
    payload = x_RW.view(np.uint8).reshape(-1)
    return [payload[at : at + layout.chunk_bytes].data for at in range(0, len(payload), layout.chunk_bytes)]


def _compressed(layout: Layout, chunk: memoryview) -> Buffer:
    if layout.compress == "none":
        return chunk
    from numcodecs import zstd

    return bytes(zstd.compress(chunk, LEVEL))


def _mark(layout: Layout, shard: int, chunks: Sequence[Buffer], footer: bytes) -> ShardMark:
    sizes = tuple(len(chunk) for chunk in chunks)
    return ShardMark(
        shard=shard,
        size=sum(sizes) + len(footer),
        chunks=tuple(checksum(chunk) for chunk in chunks),
        lengths=() if layout.compress == "none" else sizes,
    )


def checksum(chunk: Buffer | np.ndarray) -> int:
    """CRC-32C of bytes (google_crc32c takes bytes and arrays, but no memoryview)."""
    return int(google_crc32c.value(np.frombuffer(chunk, np.uint8)))


def _moments(layout: Layout, shard: int, x_RW: np.ndarray) -> Moments:
    first, stop = layout.shard_range(shard)
    x_NW = x_RW[: stop - first]
    moments = measure(x_NW, lambda block_NW: decode(layout.dtype, block_NW, layout.d))
    return msgspec.structs.replace(moments, rounding=rounding(layout.dtype, x_NW, layout.d))
