"""Re-reading a cache: every object against its checksum, every count against the plan, every row for finiteness."""

from collections.abc import Iterator

import google_crc32c
import numpy as np

from storage.cache import Cache
from storage.dtype import logical
from storage.manifest import Seal
from storage.segment import Segment, array_metadata
from storage.shard import ShardMark, chunk_crcs, index, key
from storage.site import Site
from storage.value import Value


class Finding(Value):
    """One object that is not as its records say."""

    path: str
    """URL of the object."""
    problem: str


class Checked(Value):
    """What one site of one segment held when it was re-read."""

    site: str
    segment: int
    rows: int
    bytes: int
    nonfinite: int
    """Rows with NaN or infinity, which the seal must have counted."""
    findings: tuple[Finding, ...]


def verify(cache: Cache) -> Iterator[Checked]:
    """Re-read every sealed site of every segment, and the token index where it is whole; yields as it goes."""
    for segment in cache.segments:
        if segment.planned:
            yield _tokens(segment)
        for site in sorted(segment.sealed):
            yield _site(segment, site)


def _tokens(segment: Segment) -> Checked:
    """The token parts against plan.json."""
    findings, rows, size = [], 0, 0
    for part in segment.plan.parts:
        data = segment.folder.find(part.path)
        path = str(segment.folder / part.path)
        if data is None:
            findings.append(Finding(path=path, problem="is not there"))
        elif google_crc32c.value(data) != part.crc32c:
            findings.append(Finding(path=path, problem="does not match the checksum in plan.json"))
        rows, size = rows + part.rows, size + part.size
    if rows != segment.plan.rows:
        problem = f"says {segment.plan.rows} rows, but its parts have {rows}"
        findings.append(Finding(path=str(segment.folder / "plan.json"), problem=problem))
    return Checked(site="tokens", segment=segment.number, rows=rows, bytes=size, nonfinite=0, findings=tuple(findings))


def _site(segment: Segment, site: Site) -> Checked:
    seal, folder = segment.read_seal(site), segment.array(site)
    findings: list[Finding] = []
    if folder.find("zarr.json") != array_metadata(seal.layout):
        findings.append(Finding(path=str(folder / "zarr.json"), problem="is not the metadata of this layout"))
    rows, nonfinite = 0, 0
    for mark in seal.shards:
        data = folder.find(key(mark.shard))
        problem = _shard_problem(seal, mark, data)
        if problem:
            findings.append(Finding(path=str(folder / key(mark.shard)), problem=problem))
            continue
        assert data is not None
        first, stop = seal.layout.shard_range(mark.shard)
        rows += stop - first
        nonfinite += _nonfinite_rows(seal, data, stop - first)
    if not findings and (rows, nonfinite) != (segment.plan.rows, seal.moments.nonfinite):
        problem = f"holds {rows} rows, {nonfinite} not finite; the plan has {segment.plan.rows}, the seal "
        findings.append(Finding(path=str(folder), problem=f"{problem}{seal.moments.nonfinite}"))
    return Checked(
        site=str(site),
        segment=segment.number,
        rows=rows,
        bytes=sum(mark.size for mark in seal.shards),
        nonfinite=nonfinite,
        findings=tuple(findings),
    )


def _shard_problem(seal: Seal, mark: ShardMark, data: bytes | None) -> str:
    """What is wrong with a shard's bytes; empty if nothing is."""
    if data is None:
        return "is not there"
    if len(data) != mark.size:
        return f"has {len(data)} bytes where its seal says {mark.size}"
    footer = index(seal.layout, mark.shard)
    if data[-len(footer) :] != footer:
        return "has a damaged shard index"
    payload = np.frombuffer(data, np.uint8)[: -len(footer)]
    size = seal.layout.rows_per_chunk * seal.layout.row_bytes
    bad = [n for n, (a, b) in enumerate(zip(chunk_crcs(payload, size), mark.chunks, strict=True)) if a != b]
    if bad:
        first = mark.shard * seal.layout.rows_per_shard + bad[0] * seal.layout.rows_per_chunk
        return f"does not match its checksums in {len(bad)} chunks, the first at row {first}"
    return "" if google_crc32c.value(data) == mark.crc32c else "does not match its checksum"


def _nonfinite_rows(seal: Seal, data: bytes, rows: int) -> int:
    x_ND = np.frombuffer(data, logical(seal.layout.dtype), count=rows * seal.layout.d).reshape(rows, -1)
    return int((~np.isfinite(x_ND.astype(np.float32)).all(axis=1)).sum())
