"""Bytes: of what lies in a lake, from its records alone, and as people write them."""

import re

import msgspec

from storage.cache import Cache
from storage.errors import InputError
from storage.layout import Layout
from storage.segment import Segment
from storage.site import Site

_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?) ?(?:([KMGT])(i?))?B")
_POWERS = {None: 0, "K": 1, "M": 2, "G": 3, "T": 4}


def parse(text: str) -> int:
    """Bytes of `10GiB`, `1.5TB` or `300B`; `InputError` for anything else."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise InputError(f"size {text!r}: write a number and its unit, for instance 10GiB, 500MB or 1.5TiB")
    return int(float(match[1]) * (1024 if match[3] else 1000) ** _POWERS[match[2]])


def written(size: int) -> str:
    """Bytes for people: three digits and a unit."""
    amount, unit = float(size), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if amount < 1000:
            break
        amount, unit = amount / 1024, larger
    return f"{amount:.3g} {unit}"


def stored_bytes(shape: Layout) -> int:
    """Of all shards of a site before they are compressed, with padding and indexes."""
    chunks = -(-shape.rows // shape.rows_per_chunk)
    return chunks * shape.chunk_bytes + shape.n_shards * (16 * shape.chunks_per_shard + 4)


def cache_bytes(cache: Cache) -> int:
    """Of a cache's sealed shards and of its tokens.

    Asks for a seal of each site, which tells the others where segments are cut alike; for all if they are compressed.
    """
    known: dict[tuple[Site, int, int], Layout] = {}
    return sum(_segment_bytes(segment, known) for segment in cache.segments if segment.sealed)


def _segment_bytes(segment: Segment, known: dict[tuple[Site, int, int], Layout]) -> int:
    """`known` are layouts of earlier segments, by site and cut."""
    plan = segment.plan
    total = sum(part.size for part in plan.parts)
    for site in segment.sealed:
        cut = (site, plan.rows_per_unit, plan.shard_bytes)
        if cut in known and plan.compress == "none":
            total += stored_bytes(msgspec.structs.replace(known[cut], rows=plan.rows))
            continue
        seal = segment.read_seal(site)
        known[cut] = seal.layout
        total += sum(shard.size for shard in seal.shards)
    return total
