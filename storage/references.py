"""Who stands on what in a lake: artifacts on caches and on other artifacts, pins and leases on both."""

from collections.abc import Collection, Mapping

from storage.artifact import Record
from storage.errors import InputError
from storage.lake import Lake
from storage.lease import holders
from storage.pins import pins
from storage.removal import removed
from storage.value import Value


class References(Value):
    """What was found; a path is `caches/<name>` or `artifacts/<name>`."""

    records: Mapping[str, Record]
    """Of every artifact that is not marked for removal, by path."""
    pinned: Mapping[str, str]
    """Who pinned a path, or something that stands on it."""
    used: Mapping[str, str]
    """Whose lease uses a path now."""
    leases: frozenset[str]
    """Names of the leases that are held."""

    def holding(self, path: str, besides: Collection[str] = ()) -> tuple[str, ...]:
        """Everything that keeps `path` from going, in words; `besides` are paths that go with it."""
        found = [
            f"{name} was made from it"
            for name, record in self.records.items()
            if path in _made_from(record) and name not in besides
        ]
        found += [
            f"{name} went on from it"
            for name, record in self.records.items()
            if record.previous and path == f"artifacts/{record.previous}" and name not in besides
        ]
        return (*found, *self.using(path))

    def using(self, path: str) -> tuple[str, ...]:
        """Who pinned it and whose lease uses it, in words."""
        found = [f"it is pinned by {self.pinned[path]}"] if path in self.pinned else []
        return (*found, f"{self.used[path]} uses it now") if path in self.used else tuple(found)

    def made_from(self, cache: str, number: int) -> dict[str, tuple[str, ...]]:
        """The kept artifacts that were made from that segment of a cache, and from which of its sites."""
        return {
            name: one.sites
            for name, record in self.records.items()
            for one in record.inputs.values()
            if f"caches/{one.cache}" == cache and one.first <= number < one.segments
        }


def references(lake: Lake, own: str = "") -> References:
    """Look around, past the lease whose token is `own`.

    Leases come before records: a run writes its record before it ends its lease.
    """
    held = holders(lake.folder, own)
    used = {path: f"{holder.name} of {holder}" for holder in held for path in holder.uses}
    records = _records(lake)
    pinned: dict[str, str] = {}
    for pin in pins(lake.folder):
        for path in _all_below(pin.path, records):
            pinned.setdefault(path, pin.owner)
    return References(records=records, pinned=pinned, used=used, leases=frozenset(one.name for one in held))


def _records(lake: Lake) -> dict[str, Record]:
    found = {}
    for name in lake.artifacts():
        try:
            found[f"artifacts/{name}"] = lake.artifact(name).record
        except InputError:
            if lake.artifact_folder(name).exists("record.json"):
                raise
            # it has gone since it was listed
    return found


def locate(lake: Lake, name: str, marked: bool = False) -> str:
    """The path of what is called `name`: an artifact's folder, a cache's folder, bare name or id.

    With `marked`, of what was marked for removal, by its folder's name.
    """
    if marked:
        there = [f"{kind}/{name}" for kind in ("artifacts", "caches") if removed(lake.folder / f"{kind}/{name}")]
        return there[0] if there else f"caches/{lake.cache(name).id}"
    return f"artifacts/{name}" if name in lake.artifacts() else f"caches/{lake.cache(name).id}"


def _made_from(record: Record) -> set[str]:
    artifacts = {f"artifacts/{name}" for name in record.artifacts.values()}
    return artifacts | {f"caches/{one.cache}" for one in record.inputs.values()}


def _all_below(path: str, records: Mapping[str, Record]) -> set[str]:
    """The path, and everything it stands on."""
    found, open_ = set(), [path]
    while open_:
        one = open_.pop()
        if one not in found:
            found.add(one)
            if (record := records.get(one)) is not None:
                open_ += _made_from(record)
                open_ += [f"artifacts/{record.previous}"] if record.previous else []
    return found
