"""Copying a cache or an artifact into another lake: whole objects in the order of writing, each checked on its way.

The order makes a copy safe to kill anywhere: data before marks, marks before the seal. Nothing at the destination is
ever overwritten, and what is there already is not sent again.
"""

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

from storage.artifact import Artifact
from storage.cache import Cache, create
from storage.errors import InputError, RunError
from storage.layout import Layout
from storage.manifest import Mark, Plan, Seal
from storage.removal import EXPIRED, removed
from storage.segment import Segment, group_metadata, mark_name, seal_name
from storage.shard import ShardMark, checksum, key, parse
from storage.site import Site
from storage.url import Folder
from storage.value import Value, decode_signed, unsigned

T = TypeVar("T")

_THREADS = 4
"""Objects on their way at once, and so shards held in memory."""


class Part(Value):
    """A segment and what of it will be copied."""

    number: int
    sites: tuple[Site, ...] = ()
    """Sealed ones; none where the segment has expired."""
    expired: bool = False
    shards: int = 0
    """Of all these sites."""


class Way:
    """From a folder to one of the same contents elsewhere; counts what it sends. Safe to share between threads."""

    def __init__(self, source: Folder, target: Folder, advance: Callable[[int], object] = lambda shards: None) -> None:
        """`advance` is told of every shard that is there now."""
        if removed(target):
            raise InputError(f"{target} is marked for removal: finish that with `garner gc`, and copy again")
        self.source, self.target = source, target
        self.sent = self.there = self.bytes = 0
        self._advance, self._lock = advance, threading.Lock()

    def record(self, name: str) -> bytes:
        """Send one record; its bytes."""
        data = _read(self.source, name)
        unsigned(data, str(self.source / name))
        self.put(name, data)
        return data

    def put(self, name: str, data: bytes) -> None:
        """Create one object, whose bytes are known to be good; another of that name is refused."""
        if self.target.create(name, data):
            with self._lock:
                self.sent, self.bytes = self.sent + 1, self.bytes + len(data)
        elif self.target.read(name) != data:
            raise _diverged(self.target, name)
        else:
            self.adopt()

    def adopt(self) -> None:
        """Count one object that was there."""
        with self._lock:
            self.there += 1

    def advance(self, shards: int) -> None:
        """Say that so many shards are there now."""
        with self._lock:
            self._advance(shards)


def parts(cache: Cache) -> tuple[tuple[Part, ...], tuple[str, ...]]:
    """What of the cache can be copied, and what is left out because nothing says yet that it is whole."""
    found: list[Part] = []
    segments = {segment.number: segment for segment in cache.segments}
    for number in range(cache.n_claimed):
        segment = segments.get(number)
        if segment is None:
            found.append(Part(number=number, expired=True))
            continue
        if not segment.sealed:
            return tuple(found), (f"segments from {number} on, of which no site is sealed",)
        sites = tuple(sorted(segment.sealed))
        shards = sum(len(segment.read_seal(site).shards) for site in sites)
        found.append(Part(number=number, sites=sites, shards=shards))
    return tuple(found), tuple(_unsealed(segments.values()))


def _unsealed(segments: Iterable[Segment]) -> Iterable[str]:
    for segment in segments:
        begun = set(segment.folder.names("done")) - set(map(str, segment.sealed))
        if begun:
            yield f"{', '.join(sorted(begun))} of segment {segment.number}, which are not sealed"


def copy_cache(source: Cache, work: Sequence[Part], way: Way, check: Callable[[], object]) -> Cache:
    """Copy `work` of a cache; `check` raises once another process may have taken over at the destination."""
    target = create(way.target, source.record)
    mine = {part.number: _segment(source.folder, part.number) for part in work}
    for part in work:
        _check_same(mine[part.number], _segment(way.target, part.number))
    for name in {site.path for part in work for site in part.sites if site.kind == "logits"}:
        way.record(f"sets/{name}.json")
    for part in work:
        check()
        _copy_segment(mine[part.number], _segment(way.target, part.number), part, way, check)
    for name in source.folder.names("certificates"):
        way.record(f"certificates/{name}")
    return Cache(target.folder)


def copy_artifact(source: Artifact, way: Way) -> None:
    """Copy an artifact: its files, then the record; one that was made there stands."""
    if way.target.exists("record.json"):
        way.adopt()
        return
    for file in source.record.files:
        data = source.read(file.name)
        way.put(file.path, data)
    way.record("record.json")


def _segment(cache: Folder, number: int) -> Segment:
    return Segment(cache / f"segments/{number:05d}", number)


def _check_same(mine: Segment, theirs: Segment) -> None:
    """Refuse a destination whose segment took other files, or numbered its rows otherwise, before anything is sent."""
    for name in ("files.json", "plan.json"):
        there = theirs.folder.find(name)
        if there is not None and there != mine.folder.find(name):
            raise _diverged(theirs.folder, name)


def _copy_segment(mine: Segment, theirs: Segment, part: Part, way: Way, check: Callable[[], object]) -> None:
    inner = f"segments/{mine.number:05d}"
    if EXPIRED in theirs.folder.names():
        way.adopt()
        return
    if part.expired:
        _copy_expired(mine, theirs, way, inner)
        return
    way.record(f"{inner}/files.json")
    plan = decode_signed(_read(mine.folder, "plan.json"), Plan, str(mine.folder / "plan.json"))
    if not theirs.planned:
        each(lambda at: _copy_tokens(mine, plan, at, way, inner), range(len(plan.parts)))
        (theirs.folder / "tokens").settle()
    way.record(f"{inner}/plan.json")
    way.put(f"{inner}/sites/zarr.json", group_metadata())
    copies = [one for site in part.sites if (one := _SiteCopy(mine, theirs, site, way, inner)).wanted]
    each(lambda one: one[0].unit(one[1]), [(one, unit) for one in copies for unit in range(plan.n_units)])
    check()
    for one in copies:
        one.seal()


def _copy_expired(mine: Segment, theirs: Segment, way: Way, inner: str) -> None:
    """`files.json` last: until it is there nobody takes the segment for one whose tokens are to be indexed."""
    if theirs.folder.exists("files.json"):  # it has not expired there
        way.adopt()
        return
    names = mine.folder.names()
    for name in (EXPIRED, "plan.json", "files.json"):
        if name in names:
            way.record(f"{inner}/{name}")


def _copy_tokens(mine: Segment, plan: Plan, at: int, way: Way, inner: str) -> None:
    part = plan.parts[at]
    data = _read(mine.folder, part.path)
    if len(data) != part.size or checksum(data) != part.crc32c:
        raise _damaged(mine.folder / part.path, "plan.json")
    way.put(f"{inner}/{part.path}", data)


class _SiteCopy:
    """One sealed site of one segment on its way."""

    def __init__(self, mine: Segment, theirs: Segment, site: Site, way: Way, inner: str) -> None:
        self._mine, self._theirs, self._site, self._way, self._inner = mine, theirs, site, way, inner
        data = _read(mine.folder, seal_name(site))
        self._seal = decode_signed(data, Seal, str(mine.folder / seal_name(site)))
        self._shards = {mark.shard: mark for mark in self._seal.shards}
        self.wanted = not self._is_there(data)
        """False where the destination has sealed it already."""
        if self.wanted:
            self._metadata()
            self._units = theirs.units_done(site)
            self._objects = frozenset(theirs.array(site).names())

    def _is_there(self, seal: bytes) -> bool:
        """A seal of the destination's own stands: it is the same site of the same rows."""
        if self._theirs.folder.find(seal_name(self._site)) is None:
            return False
        self._way.adopt()
        self._way.advance(len(self._shards))
        return True

    def _metadata(self) -> None:
        array = self._mine.array(self._site)
        data = _read(array, "zarr.json")
        if checksum(data) != self._seal.metadata:
            raise _damaged(array / "zarr.json", seal_name(self._site))
        self._way.put(f"{self._inner}/sites/{self._site}/zarr.json", data)

    def unit(self, unit: int) -> None:
        """The shards of a unit, then its mark."""
        name = mark_name(self._site, unit)
        data = _read(self._mine.folder, name)
        mark = decode_signed(data, Mark, str(self._mine.folder / name))
        if any(self._shards.get(shard.shard) != shard for shard in mark.shards):
            raise _damaged(self._mine.folder / name, seal_name(self._site))
        if unit not in self._units:
            for shard in mark.shards:
                self._shard(shard)
            self._theirs.array(self._site).settle()
        self._way.put(f"{self._inner}/{name}", data)
        self._way.advance(len(mark.shards))

    def _shard(self, mark: ShardMark) -> None:
        """Send one shard; one that is there already must be the same, for a mark will vouch for it."""
        name = key(mark.shard)
        if name in self._objects:
            if not _whole(self._seal.layout, mark, self._theirs.array(self._site).read(name)):
                raise _diverged(self._theirs.array(self._site), name)
            self._way.adopt()
            return
        array = self._mine.array(self._site)
        data = _read(array, name)
        if not _whole(self._seal.layout, mark, data):
            raise _damaged(array / name, seal_name(self._site))
        self._way.put(f"{self._inner}/sites/{self._site}/{name}", data)

    def seal(self) -> None:
        """Make the site readable there, once every unit is."""
        (self._theirs.folder / f"done/{self._site}").settle()
        self._way.record(f"{self._inner}/{seal_name(self._site)}")


def _whole(layout: Layout, mark: ShardMark, data: bytes) -> bool:
    """Whether the bytes are those that the mark describes."""
    chunks = parse(layout, mark.shard, data) if len(data) == mark.size else None
    return chunks is not None and tuple(map(checksum, chunks)) == mark.chunks


def _read(folder: Folder, name: str) -> bytes:
    data = folder.find(name)
    if data is None:
        raise RunError(f"{folder / name} is lost: `garner verify` says what else is; mend the source, and copy again")
    return data


def _damaged(folder: Folder, record: str) -> RunError:
    return RunError(
        f"{folder} is damaged: it does not match {record}, so it is not copied; `garner repair` the source, and copy "
        "again: what is there already stays"
    )


def _diverged(folder: Folder, name: str) -> InputError:
    return InputError(
        f"{folder / name} is there and is another than the source's: the two have gone different ways, and neither is "
        "overwritten; copy into another lake, or remove what is there"
    )


def each(work: Callable[[T], object], tasks: Iterable[T]) -> None:
    """Run `work` on every task, some at a time; the first error ends it, and what was not begun never is."""
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="garner-copy") as pool:
        futures = [pool.submit(work, task) for task in tasks]
        try:
            for future in as_completed(futures):
                future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
