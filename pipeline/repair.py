"""`garner repair`: makes again what `garner verify` found damaged, and nothing else."""

import argparse
import re
from collections.abc import Iterator
from typing import Any

from pipeline.harvest import ROWS, harvest
from pipeline.pools import make_pool
from pipeline.progress import Progress
from pipeline.recipe import PoolTable, assign
from pipeline.verify import named
from storage import sets
from storage.cache import Cache
from storage.errors import InputError, RunError
from storage.lake import Lake
from storage.mend import layout_of, take_away
from storage.segment import Segment
from storage.shard import key
from storage.site import Site, known_sites
from storage.value import convert
from storage.verify import Checked, Finding, verify
from workers.confirm import confirm
from workers.harvest import HarvestSpec
from workers.model import ModelSpec

_MENDABLE = re.compile(r"(segments/\d+/(sites|done|sealed)|certificates)/")
"""Objects that follow from the tokens and the model; all others are what a cache is made from."""


def repair(arguments: argparse.Namespace) -> Iterator[str]:
    """A line for everything mended; `RunError` names what cannot be, before anything of that cache is removed."""
    lake, table = Lake(arguments.lake), _pool_table(arguments.set)
    for name in named(lake, arguments.name):
        cache = lake.cache(name)
        checked = [one for one in verify(cache) if one.findings]
        found = [finding for one in checked for finding in one.findings]
        yield f"cache {cache.id}: {len({one.path for one in found})} damaged objects"
        _check_mendable(cache, found)
        yield from _certificates(cache, found)
        for number in sorted({one.segment for one in checked if one.segment is not None}):
            some = [one for one in checked if one.segment == number]
            yield from _mend(cache, _numbered(cache, number), some, arguments.model, table)
        yield from _unsealed(Cache(cache.folder))


def _numbered(cache: Cache, number: int) -> Segment:
    return next(segment for segment in cache.segments if segment.number == number)


def _unsealed(cache: Cache) -> Iterator[str]:
    """Sites that only a run can finish: one that was begun, or that a killed repair had opened again."""
    for segment in cache.segments:
        for site in sorted({*known_sites(segment.folder.names("done"))} - segment.sealed):
            yield f"  segment {segment.number} {site}: not sealed, run its recipe"


def _pool_table(settings: list[str]) -> PoolTable:
    """The pool that `pool.a=b` settings describe; this process unless they say otherwise."""
    table: dict[str, Any] = {"pool": {"kind": "local"}}
    for setting in settings:
        table = assign(table, setting)
    if set(table) != {"pool"}:
        raise InputError(
            f"--set {' '.join(settings)}: repair has fields of the pool only, such as pool.batch_tokens=4096"
        )
    pool: PoolTable = convert(table["pool"], PoolTable, "pool")
    return pool


def _check_mendable(cache: Cache, found: list[Finding]) -> None:
    lost = [one.path for one in found if not _MENDABLE.match(one.path.removeprefix(f"{cache.folder.url}/"))]
    if lost:
        raise RunError(
            f"{', '.join(lost)}: cannot be made again from what is left; bring back a copy, or remove the cache and "
            "run its recipe"
        )


def _certificates(cache: Cache, found: list[Finding]) -> Iterator[str]:
    """A damaged certificate is dropped: it says what was seen once, and another can be made."""
    for one in found:
        if one.folder.endswith("/certificates"):
            cache.folder.remove(f"certificates/{one.name}")
            yield f"  {one.path} removed; `garner verify --against-model` makes a new one"


def _mend(cache: Cache, segment: Segment, checked: list[Checked], model: str | None, table: PoolTable) -> Iterator[str]:
    """Mend the sites of one segment in one pass; what could stop that is looked at before anything is removed."""
    damaged = {Site.parse(one.what): one.findings for one in checked}
    nonfinite = any(_nonfinite(segment, site) for site in damaged)
    spec = _spec(cache, segment, {site: layout_of(segment, site).d for site in damaged}, model, table, nonfinite)
    for site, found in damaged.items():
        shards = take_away(segment, site, found)
        listed = f" ({', '.join(map(key, shards))})" if shards else ""
        yield f"  segment {segment.number} {site}: {len(shards)} shards to harvest again{listed}"
    again = Segment(segment.folder, segment.number)
    harvest(cache.record.name, again, spec, make_pool(table, cache.folder.url), Progress())
    yield f"  segment {segment.number}: sealed again"


def _nonfinite(segment: Segment, site: Site) -> bool:
    """Whether rows that are not finite may be kept: as they were, or where the seal that would say is lost."""
    try:
        return segment.read_seal(site).moments.nonfinite > 0
    except RunError:
        return True


def _spec(
    cache: Cache, segment: Segment, widths: dict[Site, int], model: str | None, table: PoolTable, nonfinite: bool
) -> HarvestSpec:
    what = cache.record.identity
    return HarvestSpec(
        model=ModelSpec(
            source=confirm(cache, model),
            revision=what.model.revision,
            dtype=what.model.dtype,
        ),
        segment=segment.folder.url,
        number=segment.number,
        widths={str(site): width for site, width in widths.items()},
        dtype=what.dtype,
        rows=ROWS.get(what.tokenisation["kind"], "tokens"),
        batch_tokens=table.batch_tokens,
        nonfinite=nonfinite,
        sets={site.path: sets.read(cache.folder, site.path).ids for site in widths if site.kind == "logits"},
    )
