"""Re-reading a cache: every object against its checksum, every count against the plan, every row for finiteness."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import numpy as np

from storage.cache import Cache
from storage.dtype import decode
from storage.errors import GarnerError, RunError
from storage.layout import Layout
from storage.manifest import Seal
from storage.segment import Segment, group_metadata, mark_name, seal_name
from storage.shard import ShardMark, checksum, decompressed, key, parse
from storage.site import Site, known_sites
from storage.url import Folder
from storage.value import Value, unsigned

T = TypeVar("T")


class Finding(Value):
    """One object that is not as its records say."""

    folder: str
    """URL of the folder it lies in."""
    name: str
    problem: str

    @property
    def path(self) -> str:
        """URL of the object."""
        return f"{self.folder}/{self.name}"


class Checked(Value):
    """What was found when one site of one segment, its tokens or its records were re-read."""

    what: str
    """A site's name, `tokens` or `records`."""
    segment: int | None = None
    """None for records of the whole cache."""
    rows: int = 0
    bytes: int = 0
    nonfinite: int = 0
    """Rows with NaN or infinity, which the seal must have counted."""
    findings: tuple[Finding, ...] = ()


def verify(cache: Cache) -> Iterator[Checked]:
    """Re-read every object of the cache (cache.json was checked when it was opened); yields as it goes."""
    loose = [(cache.folder / kind, name) for kind in ("certificates", "sets") for name in cache.folder.names(kind)]
    yield Checked(what="records", findings=(*_damaged(loose), *_lost_sets(cache)))
    for segment in cache.segments:
        findings = tuple(_damaged((segment.folder, name) for name in ("files.json", "plan.json")))
        if segment.sealed and not segment.planned:
            findings += (Finding(folder=segment.folder.url, name="plan.json", problem="is not there"),)
        yield Checked(what="records", segment=segment.number, findings=findings)
        if segment.planned and not findings:
            yield _tokens(segment)
            for site in _sites(segment):
                yield _site(segment, site)


def _lost_sets(cache: Cache) -> Iterator[Finding]:
    """Sets without which nobody knows which tokens' logits a site holds."""
    sealed = {site.path for segment in cache.segments for site in segment.sealed if site.kind == "logits"}
    for name in sorted(sealed - {name.removesuffix(".json") for name in cache.folder.names("sets")}):
        yield Finding(folder=f"{cache.folder}/sets", name=f"{name}.json", problem="is not there")


def _damaged(objects: Iterable[tuple[Folder, str]]) -> Iterator[Finding]:
    """Records that are there and not as they were written."""
    for folder, name in objects:
        data = folder.find(name)
        try:
            unsigned(data or b"", name)
        except RunError:
            if data is not None:
                yield Finding(folder=folder.url, name=name, problem="does not match its own checksum")


def _tokens(segment: Segment) -> Checked:
    """The token parts against plan.json."""
    findings, rows, size = [], 0, 0
    for part in segment.plan.parts:
        data = segment.folder.find(part.path)
        if data is None:
            findings.append(Finding(folder=segment.folder.url, name=part.path, problem="is not there"))
        elif checksum(data) != part.crc32c:
            problem = "does not match the checksum in plan.json"
            findings.append(Finding(folder=segment.folder.url, name=part.path, problem=problem))
        rows, size = rows + part.rows, size + part.size
    if rows != segment.plan.rows:
        problem = f"says {segment.plan.rows} rows, but its parts have {rows}"
        findings.append(Finding(folder=segment.folder.url, name="plan.json", problem=problem))
    return Checked(what="tokens", segment=segment.number, rows=rows, bytes=size, findings=tuple(findings))


def _sites(segment: Segment) -> list[Site]:
    """Every site that has a mark or a seal."""
    return sorted({*known_sites(segment.folder.names("done")), *segment.sealed})


def _site(segment: Segment, site: Site) -> Checked:
    """Marks, seal and array of one site; one that is not sealed yet is checked as far as its marks go."""
    findings = list(_marks(segment, site))
    seal = _readable(lambda: segment.read_seal(site))
    if site in segment.sealed and seal is None:
        findings += _damaged([(segment.folder, seal_name(site))])
    layout = seal.layout if seal else segment.described(site)
    findings += _metadata(segment, site, seal, layout)
    if layout is None:
        return Checked(what=str(site), segment=segment.number, findings=tuple(findings))
    return _array(segment, site, seal, layout, findings)


def _marks(segment: Segment, site: Site) -> Iterator[Finding]:
    done = segment.units_done(site)
    yield from _damaged((segment.folder, mark_name(site, unit)) for unit in sorted(done))
    for unit in sorted(set(range(segment.plan.n_units)) - done) if site in segment.sealed else ():
        yield Finding(folder=segment.folder.url, name=mark_name(site, unit), problem="is not there")


def _metadata(segment: Segment, site: Site, seal: Seal | None, layout: Layout | None) -> Iterator[Finding]:
    if segment.folder.find("sites/zarr.json") != group_metadata():
        yield Finding(folder=segment.folder.url, name="sites/zarr.json", problem="is not a Zarr group's metadata")
    data = segment.array(site).find("zarr.json")
    if data is None or layout is None or (seal and checksum(data) != seal.metadata):
        problem = "is not there" if data is None else "is not what was written"
        yield Finding(folder=segment.array(site).url, name="zarr.json", problem=problem)


def trusted(segment: Segment, site: Site) -> dict[int, ShardMark]:
    """What the site's shards must be, from its seal, or from the marks that are whole if the seal is not."""
    if seal := _readable(lambda: segment.read_seal(site)):
        return {shard.shard: shard for shard in seal.shards}
    marks = [_readable(lambda unit=unit: segment.read_mark(site, unit)) for unit in segment.units_done(site)]  # type: ignore[misc]
    return {shard.shard: shard for mark in marks if mark for shard in mark.shards}


def _readable(read: Callable[[], T]) -> T | None:
    try:
        return read()
    except (GarnerError, FileNotFoundError):
        return None


def _array(segment: Segment, site: Site, seal: Seal | None, layout: Layout, findings: list[Finding]) -> Checked:
    """Every shard against its mark."""
    folder, marks, nonfinite, whole = segment.array(site), trusted(segment, site), 0, True
    for mark in marks.values():
        data = folder.find(key(mark.shard))
        if problem := _shard_problem(layout, mark, data):
            findings.append(Finding(folder=folder.url, name=key(mark.shard), problem=problem))
            whole = False
        elif data is not None:
            nonfinite += _nonfinite_rows(layout, mark.shard, data)
    if seal and whole and (layout.rows, nonfinite) != (segment.plan.rows, seal.moments.nonfinite):
        problem = f"says {layout.rows} rows, {seal.moments.nonfinite} not finite; there are {segment.plan.rows}, "
        findings.append(Finding(folder=segment.folder.url, name=seal_name(site), problem=f"{problem}{nonfinite}"))
    ranges = [layout.shard_range(shard) for shard in marks]
    return Checked(
        what=str(site),
        segment=segment.number,
        rows=sum(stop - first for first, stop in ranges),
        bytes=sum(mark.size for mark in marks.values()),
        nonfinite=nonfinite,
        findings=tuple(findings),
    )


def _shard_problem(layout: Layout, mark: ShardMark, data: bytes | None) -> str:
    """What is wrong with a shard's bytes; empty if nothing is."""
    if data is None:
        return "is not there"
    if len(data) != mark.size:
        return f"has {len(data)} bytes where its mark says {mark.size}"
    chunks = parse(layout, mark.shard, data)
    if chunks is None:
        return "has a damaged shard index"
    bad = [n for n, (chunk, crc) in enumerate(zip(chunks, mark.chunks, strict=True)) if checksum(chunk) != crc]
    if not bad:
        return ""
    first = mark.shard * layout.rows_per_shard + bad[0] * layout.rows_per_chunk
    return f"does not match its checksums in {len(bad)} chunks, the first at row {first}"


def _nonfinite_rows(layout: Layout, shard: int, data: bytes) -> int:
    first, stop = layout.shard_range(shard)
    count = 0
    for chunk in parse(layout, shard, data) or ():
        x_NW = decompressed(layout, chunk)[: stop - first]
        count += int((~np.isfinite(decode(layout.dtype, x_NW, layout.d).astype(np.float32)).all(axis=1)).sum())
        first += len(x_NW)
    return count
