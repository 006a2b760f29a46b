"""What `garner gc` finds that can go, each with the reason and the order in which its objects go.

Nothing younger than the grace goes, by the store's own clock; nothing that a lease uses, a pin holds or an artifact
stands on. Whatever order a kill leaves half done, what is left is as valid as before, or is found again by the next gc.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Literal

from storage.cache import Cache
from storage.lake import Lake
from storage.references import References, references
from storage.removal import EXPIRED, PURGING, REMOVED
from storage.retention import last_nights, retentions
from storage.url import Object
from storage.value import Value

GRACE = 7 * 86_400.0
"""Seconds."""
_LEFT_OVER = re.compile(r"(^|/)(\..+\.[0-9a-f]{32}\.tmp|probe-[0-9a-f]{32}(/.*)?)$")
_ITEM = re.compile(r"(caches|artifacts)/[^/]+/")


class Found(Value):
    """One thing that can go, or that cannot and why."""

    path: str
    """In the lake: a folder, or the folder that the objects lie in."""
    why: str
    action: Literal["purge", "drop", "mark", "expire", "keep"]
    """Purge a marked cache or artifact, drop some objects, mark for removal, mark as expired, or keep after all."""
    objects: tuple[str, ...] = ()
    """In the lake, in the order in which they go."""
    bytes: int = 0


class Around(Value):
    """The lake as it was looked at."""

    objects: Mapping[str, tuple[Object, ...]]
    """Of each cache and artifact by its path, and of the rest under ""."""
    now: float
    """By the store's clock."""
    grace: float
    references: References

    def old(self, one: Object, grace: float | None = None) -> bool:
        """Whether the object is older than the grace, or than `grace` seconds."""
        return self.now - one.modified > (self.grace if grace is None else grace)

    def marked(self, path: str, name: str) -> Object | None:
        """A mark of that name in a folder, if it is there."""
        return next((one for one in self.objects.get(path, ()) if one.path == name), None)


def look(
    lake: Lake, grace: float = GRACE, clock: Callable[[], float] | None = None, only: str = "", own: str = ""
) -> Around:
    """Objects and marks first, then leases, then records: see `storage.removal`.

    `only` is one cache or artifact, `own` the token of a lease that does not count, for it is held to do the work.
    """
    found: dict[str, list[Object]] = {}
    for one in _objects(lake, only):
        item = _ITEM.match(one.path)
        path = item.group().rstrip("/") if item else ""
        relative = one.path.removeprefix(f"{path}/") if path else one.path
        found.setdefault(path, []).append(Object(relative, one.size, one.modified))
    now = (clock or lake.folder.clock)()
    objects = {path: tuple(some) for path, some in found.items()}
    return Around(objects=objects, now=now, grace=grace, references=references(lake, own))


def _objects(lake: Lake, only: str) -> Iterator[Object]:
    for one in (lake.folder / only if only else lake.folder).tree():
        yield Object(f"{only}/{one.path}" if only else one.path, one.size, one.modified)


def find(lake: Lake, around: Around) -> Iterator[Found]:
    """Everything that can go now, and what is marked and has to stay."""
    kept = retentions(lake.folder)
    gone = set()
    for path in sorted(around.objects):
        for one in _marked(around, path):
            gone |= {path} if one.action == "purge" else set()
            yield one
    for path in sorted(around.objects.keys() - gone):
        yield from _left_overs(around, path)
        if path.startswith("caches/") and not around.marked(path, REMOVED):
            yield from _of_cache(lake, around, path, kept.get(path))
        if path.startswith("artifacts/"):
            yield from _of_artifact(around, path, kept.get(path))
    yield from _of_runs(lake, around, kept.get("runs"))


def _marked(around: Around, path: str) -> Iterator[Found]:
    """A cache or artifact that was marked: its turn, or why it stays."""
    half, mark = around.marked(path, PURGING), around.marked(path, REMOVED)
    if half is not None or (mark is not None and around.old(mark)):
        size = sum(one.size for one in around.objects[path])
        holding = () if half is not None else around.references.holding(path)
        if holding:
            yield Found(path=path, why=f"marked for removal, but {'; '.join(holding)}", action="keep")
        else:
            yield Found(path=path, why="marked for removal", action="purge", bytes=size)


def _left_overs(around: Around, path: str) -> Iterator[Found]:
    """Temporaries and probes of writers that were killed."""
    if path in around.references.used:
        return
    some = [one for one in around.objects[path] if _LEFT_OVER.search(one.path) and around.old(one)]
    if some:
        yield _dropped(path, some, "left over by writers that were killed")


def _of_artifact(around: Around, path: str, retention: float | None) -> Iterator[Found]:
    """Files that no record names, and an artifact whose time is over."""
    record, refers = around.references.records.get(path), around.references
    if around.marked(path, REMOVED) or path in refers.used:
        return
    named = {file.path for file in record.files} if record else set()
    attempts = [one for one in around.objects[path] if one.path.startswith("attempt-") and one.path not in named]
    if (some := _plain(attempts)) and all(around.old(one) for one in attempts):
        why = "of attempts that the record does not name" if record else "of a job that never ended"
        yield _dropped(path, some, why)
    written = around.marked(path, "record.json")
    if record and written and retention is not None and around.old(written, retention) and not refers.holding(path):
        yield Found(path=path, why="its retention is over", action="mark")


def _of_cache(lake: Lake, around: Around, path: str, retention: float | None) -> Iterator[Found]:
    """Segments whose time is over, what expired ones hold, and what runs that were killed left unsealed."""
    if path in around.references.used:
        return
    if around.marked(path, "cache.json") is None:
        yield from _unnamed(around, path)
        return
    cache = Cache(lake.folder / path)
    by_segment = _by_segment(around.objects[path])
    for number in sorted(by_segment):
        if any(one.path == f"{_prefix(number)}{EXPIRED}" for one in by_segment[number]):
            yield from _of_expired(around, path, number, by_segment[number])
    if retention is not None and path not in around.references.pinned:
        yield from _expiring(around, path, cache, by_segment, retention)
    for segment in cache.segments:
        objects = by_segment.get(segment.number, [])  # none where it was claimed since the objects were listed
        yield from _unsealed(around, path, segment.number, objects, segment == cache.segments[-1])


def _unnamed(around: Around, path: str) -> Iterator[Found]:
    """What a writer that was cut off left of a cache that went meanwhile; never a seal, for that may be of use."""
    some = _plain(around.objects[path])
    if some and all(around.old(one) for one in some) and not any("/sealed/" in one.path for one in some):
        yield _dropped(path, some, "it has no cache.json, and nothing that is sealed")


def _of_expired(around: Around, path: str, number: int, objects: Sequence[Object]) -> Iterator[Found]:
    """The bytes of a segment that expired a grace ago, if no artifact stands on them."""
    mark = next(one for one in objects if one.path.endswith(EXPIRED))
    data = _in_order(objects, [f"{_prefix(number)}{part}" for part in ("sealed/", "done/", "sites/", "tokens/")])
    if not data or not around.old(mark):
        return
    on = around.references.made_from(path, number)
    if on or path in around.references.pinned:
        why = f"segment {number} has expired, but {min(on)} was made from it" if on else f"segment {number} is pinned"
        yield Found(path=path, why=why, action="keep")
    else:
        yield _dropped(path, data, f"segment {number} has expired")


def _expiring(
    around: Around, path: str, cache: Cache, by_segment: Mapping[int, Sequence[Object]], retention: float
) -> Iterator[Found]:
    """Leading segments that were sealed longer ago than the retention; never one without a sealed one after it."""
    for segment, following in pairwise(cache.segments):
        seals = _seals(segment.number, by_segment.get(segment.number, ()))
        after = _seals(following.number, by_segment.get(following.number, ()))
        if not seals or not after or not all(around.old(one, retention) for one in seals.values()):
            return
        yield Found(path=f"{path}/{_prefix(segment.number)}".rstrip("/"), why="its retention is over", action="expire")


def _unsealed(around: Around, path: str, number: int, objects: Sequence[Object], last: bool) -> Iterator[Found]:
    """Marks, then shards, of sites that nobody sealed; of a last segment without any seal everything.

    What is pinned or went into an artifact had a seal once, which a repair took away to make it again: it stays.
    """
    prefix, sealed, on = _prefix(number), _seals(number, objects), around.references.made_from(path, number)
    if not objects or path in around.references.pinned or not all(around.old(one) for one in objects):
        return  # somebody wants it, or is, or was lately, at work on it
    if last and not sealed and not on:
        order = (f"{prefix}done/", f"{prefix}sites/", f"{prefix}plan.json", f"{prefix}tokens/", f"{prefix}files.json")
        yield _dropped(path, _in_order(objects, order), f"segment {number} was never sealed")
        return
    sites = {one.path.split("/")[3] for one in objects if re.match(r"segments/\d+/(done|sites)/[^/]+/", one.path)}
    for site in sorted(sites.difference(sealed, *on.values())):
        some = _in_order(objects, (f"{prefix}done/{site}/", f"{prefix}sites/{site}/"))
        yield _dropped(path, some, f"segment {number} {site} was never sealed")


def _seals(number: int, objects: Sequence[Object]) -> dict[str, Object]:
    """The seals of a segment by the names of their sites; a later garner may have kinds that this one does not know."""
    prefix = f"{_prefix(number)}sealed/"
    seals = [one for one in objects if one.path.startswith(prefix) and one.path.endswith(".json")]
    return {one.path.removeprefix(prefix).removesuffix(".json"): one for one in seals}


def _of_runs(lake: Lake, around: Around, retention: float | None) -> Iterator[Found]:
    """Leases of runs and copies that have ended or died, and folders of runs whose time is over."""
    folders: dict[str, list[Object]] = {}
    for one in around.objects.get("", ()):
        if one.path.startswith(("runs/", "leases/run.", "leases/copy.")):
            folders.setdefault("/".join(one.path.split("/")[:2]), []).append(one)
    kept = last_nights(lake.folder) if retention is not None and folders else frozenset()
    for folder, objects in sorted((folder, objects) for folder, objects in folders.items() if folder not in kept):
        lease = folder.startswith("leases/")
        limit = around.grace if lease else max(retention or 0, around.grace)
        name = folder.partition("/")[2] if lease else f"run.{folder.partition('/')[2]}"
        wanted = lease or retention is not None
        if wanted and name not in around.references.leases and all(around.old(one, limit) for one in objects):
            objects.sort(key=lambda one: not one.path.endswith(".json"))  # a claim without its end looks held
            yield _dropped("", objects, "the run has ended" if lease else "its retention is over", folder)


def _dropped(path: str, objects: Sequence[Object], why: str, shown: str = "") -> Found:
    prefix = f"{path}/" if path else ""
    return Found(
        path=shown or path,
        why=why,
        action="drop",
        objects=tuple(f"{prefix}{one.path}" for one in objects),
        bytes=sum(one.size for one in objects),
    )


def _in_order(objects: Sequence[Object], prefixes: Sequence[str]) -> list[Object]:
    return [one for prefix in prefixes for one in _plain(objects) if one.path.startswith(prefix)]


def _plain(objects: Sequence[Object]) -> list[Object]:
    """All but left-overs of killed writers, which go by themselves."""
    return [one for one in objects if not _LEFT_OVER.search(one.path)]


def _by_segment(objects: Sequence[Object]) -> dict[int, list[Object]]:
    found: dict[int, list[Object]] = {}
    for one in objects:
        if match := re.match(r"segments/(\d+)/", one.path):
            found.setdefault(int(match.group(1)), []).append(one)
    return found


def _prefix(number: int) -> str:
    return f"segments/{number:05d}/"


__all__ = ["GRACE", "Around", "Found", "find", "look"]
