"""What a lake holds, for people and for programs: `garner ls`. No server, neither torch nor ray, and few requests.

Of a cache it asks 3 things, and of one that may be looked for 3 more of each segment and a seal of each site (where
shards are compressed, of each site and segment); of an artifact 2.
"""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from functools import partial

import msgspec

from pipeline import sizes
from pipeline.lineage import READERS
from storage.artifact import Artifact, Record
from storage.cache import Cache
from storage.errors import GarnerError, InputError
from storage.lake import Lake
from storage.removal import REMOVED
from storage.site import Site
from storage.url import Folder
from storage.value import Value, canonical


class Entry(Value):
    """One cache or artifact, as a line of `garner ls` tells of it."""

    name: str
    kind: str
    """`cache`, or the job's kind."""
    problem: str = ""
    """Why no more is known."""
    models: tuple[str, ...] = ()
    """Names, and where they were read; of an artifact those of its caches."""
    corpora: tuple[str, ...] = ()
    """Names, and where they come from."""
    dtype: str = ""
    sites: tuple[str, ...] = ()
    """That can be read, or that an artifact read."""
    segments: int = 0
    rows: int = 0
    bytes: int = 0
    owner: str = ""
    """User and host; "" in records of an earlier garner."""
    time: str = ""
    """When it was made (UTC)."""
    headline: str = ""


class Wanted(Value):
    """What `garner ls` looks for; what is not given matches everything."""

    model: str | None = None
    """Glob over the model's name or source."""
    corpus: str | None = None
    """Glob over the corpus's name or source."""
    site: Site | None = None
    owner: str | None = None
    """A user, or user@host."""
    older: float | None = None
    """Seconds."""
    newer: float | None = None
    larger: int | None = None
    """Bytes."""
    smaller: int | None = None
    kind: str | None = None
    """Glob over `cache` and the kinds of jobs."""

    def may_match(self, one: Entry, now: datetime) -> bool:
        """As far as its record tells; one that is damaged is shown rather than hidden, whatever was asked."""
        if self.kind is not None and not fnmatchcase(one.kind, self.kind):
            return False
        return bool(one.problem) or (self._is_what(one) and self._is_when(one, now))

    def matches(self, one: Entry, now: datetime) -> bool:
        """Whether it is looked for, once its sites and size are known."""
        return self.may_match(one, now) and (
            bool(one.problem)
            or (
                (self.site is None or str(self.site) in one.sites)
                and (self.larger is None or one.bytes >= self.larger)
                and (self.smaller is None or one.bytes <= self.smaller)
            )
        )

    def _is_what(self, one: Entry) -> bool:
        return (
            (self.model is None or any(fnmatchcase(name, self.model) for name in one.models))
            and (self.corpus is None or any(fnmatchcase(name, self.corpus) for name in one.corpora))
            and (self.owner is None or self.owner in (one.owner, one.owner.partition("@")[0]))
        )

    def _is_when(self, one: Entry, now: datetime) -> bool:
        """One of unknown age is neither older nor newer."""
        if self.older is None and self.newer is None:
            return True
        age = age_of(one, now)
        return age is not None and (self.older or 0) <= age <= (float("inf") if self.newer is None else self.newer)


def entries(lake: Lake, wanted: Wanted) -> Iterator[Entry]:
    """Caches, then artifacts, in the order of their names."""
    now = datetime.now(UTC)
    with ThreadPoolExecutor(READERS) as pool:
        names = lake.folder.names("caches")
        caches = [one for one in pool.map(partial(_cache, lake.folder / "caches", wanted, now), names) if one]
        artifacts = pool.map(partial(_artifact, lake.folder / "artifacts"), lake.folder.names("artifacts"))
        made = [_joined(*one, {cache.name: cache for cache in caches}) for one in artifacts if one]
    if not caches and not made:
        raise InputError(f"lake {lake.folder} holds no cache and no artifact; is the URL right?")
    yield from (one for one in (*caches, *made) if wanted.matches(one, now))


def _cache(caches: Folder, wanted: Wanted, now: datetime, name: str) -> Entry | None:
    """None for what is no cache, or is marked for removal; sizes are left out of one that is not looked for."""
    try:
        if not _there(caches / name, "cache.json"):
            return None
        cache = Cache(caches / name)
        one = _recorded(cache)
        return _measured(one, cache) if wanted.may_match(one, now) else one
    except GarnerError as error:
        return Entry(name=name, kind="cache", problem=str(error))


def of_cache(cache: Cache) -> Entry:
    """The line of a cache."""
    return _measured(_recorded(cache), cache)


def _recorded(cache: Cache) -> Entry:
    """What cache.json says."""
    what, made = cache.record.identity, cache.record.made
    own = cache.record.name.removeprefix(f"{what.model.name}.")
    sources = (str(what.corpus[key]) for key in ("files", "hub", "images") if what.corpus.get(key))
    return Entry(
        name=cache.id,
        kind="cache",
        models=tuple(filter(None, (what.model.name, made.get("model", "")))),
        corpora=(own, *sources),
        dtype=what.dtype,
        owner=made.get("owner", ""),
        time=made.get("time", ""),
    )


def _measured(one: Entry, cache: Cache) -> Entry:
    """With what its segments say."""
    return msgspec.structs.replace(
        one,
        sites=tuple(map(str, cache.sites)),
        segments=len(cache.segments),
        rows=cache.n_rows if cache.sites else 0,
        bytes=sizes.cache_bytes(cache),
    )


def _artifact(artifacts: Folder, name: str) -> tuple[str, Record | GarnerError] | None:
    try:
        return (name, Artifact(artifacts / name).record) if _there(artifacts / name, "record.json") else None
    except GarnerError as error:
        return name, error


def _joined(name: str, record: Record | GarnerError, caches: Mapping[str, Entry]) -> Entry:
    """The line of an artifact, with the models and corpora of its caches."""
    if isinstance(record, GarnerError):
        return Entry(name=name, kind=name.rpartition("-")[0], problem=str(record))
    inputs = tuple(record.inputs.values())
    held = [caches[one.cache] for one in inputs if one.cache in caches]
    return Entry(
        name=name,
        kind=record.kind,
        models=tuple(dict.fromkeys(model for one in held for model in one.models)),
        corpora=tuple(dict.fromkeys(corpus for one in held for corpus in one.corpora)),
        sites=tuple(dict.fromkeys(site for one in inputs for site in one.sites)),
        segments=sum(one.segments - one.first for one in inputs),
        bytes=sum(file.size for file in record.files),
        owner=record.made.get("owner", ""),
        time=record.made.get("time", ""),
        headline=str(record.report.get("headline", "")),
    )


def _there(folder: Folder, record: str) -> bool:
    names = folder.names()
    return record in names and REMOVED not in names


def age_of(one: Entry, now: datetime) -> float | None:
    """Seconds since it was made, by the maker's clock; None where nothing says so."""
    try:
        made = datetime.fromisoformat(one.time)
    except ValueError:
        return None
    return max((now - (made if made.tzinfo else made.replace(tzinfo=UTC))).total_seconds(), 0.0)


def listing(url: str, wanted: Wanted, as_json: bool = False) -> Iterator[str]:
    """A line per cache, then a line per artifact."""
    now = datetime.now(UTC)
    for one in entries(Lake(url), wanted):
        yield canonical(one).decode() if as_json else _line(one, now)


def _line(one: Entry, now: datetime) -> str:
    head = f"{'cache' if one.kind == 'cache' else 'artifact':<9} {one.name:<44}"
    if one.problem:
        return f"{head} {one.problem}"
    facts = f"{sizes.written(one.bytes):>9} {_aged(age_of(one, now)):>4} {one.owner or '-':<16}"
    if one.kind != "cache":
        return f"{head} {facts} {one.headline}"
    rows = f"{one.rows:,} rows" if one.sites else "nothing sealed yet"
    return f"{head} {facts} {rows:<18} {one.dtype:<9} {' '.join(one.sites)}"


def _aged(seconds: float | None) -> str:
    """An age for people, in its largest unit."""
    if seconds is None:
        return "-"
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size:.0f}{unit}"
    return f"{seconds:.0f}s"
