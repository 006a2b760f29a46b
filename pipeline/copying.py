"""`garner copy`: a cache or an artifact, and what it was made from, into another lake."""

import logging
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

from pipeline.progress import Progress
from storage import lease
from storage.artifact import Artifact
from storage.cache import Cache
from storage.copying import Way, copy_artifact, copy_cache, parts
from storage.errors import InputError, RunError
from storage.lake import Lake
from storage.lease import Lease
from storage.removal import removed
from storage.url import Folder
from storage.verify import verify

log = logging.getLogger(__name__)


def copied(
    url: str, name: str, destination: str, progress: Progress, with_inputs: bool = False, check: bool = True
) -> Iterator[str]:
    """Copy `name` from the lake at `url` to the one at `destination`; says what was done, line by line."""
    source, target = Lake(url), Lake(destination)
    if source.folder == target.folder:
        raise InputError(f"{destination} is the lake that {name} is in: name another")
    if name not in source.artifacts():
        yield from _cache(source, source.cache(name), target, progress, check)
        return
    for one in _with_inputs(source, name) if with_inputs else (name,):
        if one.startswith("caches/"):
            cache = source.cache(one.removeprefix("caches/"))
            yield from _cache(source, cache, target, progress, check)
        else:
            yield from _artifact(source, source.artifact(one), target)


def _with_inputs(source: Lake, name: str) -> list[str]:
    """What an artifact stands on, then itself: `caches/<folder>` or an artifact's name, each once."""
    record = source.artifact(name).record
    earlier = [*([record.previous] if record.previous else []), *record.artifacts.values()]
    before = [one for name in earlier for one in _with_inputs(source, name)]
    caches = [f"caches/{one.cache}" for one in record.inputs.values()]
    return list(dict.fromkeys([*before, *caches, name]))


def _cache(source: Lake, cache: Cache, target: Lake, progress: Progress, check: bool) -> Iterator[str]:
    held = target.find(cache.record)
    folder = target.folder / "caches" / (held.id if held else cache.id)
    target.check_writable()
    with _kept(source, f"caches/{cache.id}"), _alone(target, folder.name) as alone:
        _check_kept(cache.folder)
        work, left_out = parts(cache)
        meter = progress.meter(f"copy {cache.id}", sum(part.shards for part in work), "shards")
        way = Way(cache.folder, folder, meter.advance)
        arrived = copy_cache(cache, work, way, alone.check)
        meter.close()
        yield f"cache {cache.id}: {_tally(way)} in {folder}"
        yield from (f"  left out: {what}" for what in left_out)
        if check:
            yield f"  verified: {_verified(arrived):,} bytes read again, every object as its record says"


def _artifact(source: Lake, artifact: Artifact, target: Lake) -> Iterator[str]:
    name = artifact.folder.name
    with _kept(source, f"artifacts/{name}"):
        _check_kept(artifact.folder)
        way = Way(artifact.folder, target.artifact_folder(name))
        copy_artifact(artifact, way)
    yield f"artifact {name}: {_tally(way)} in {way.target}"


def _tally(way: Way) -> str:
    there = f", {way.there} were there" if way.there else ""
    return f"{way.sent} objects sent ({way.bytes / 2**20:,.1f} MiB){there}"


def _verified(cache: Cache) -> int:
    """Bytes that were read again; `RunError` names what is not as it should be."""
    checked = list(verify(cache))
    if findings := [finding for one in checked for finding in one.findings]:
        raise RunError("\n".join(f"{finding.path} {finding.problem}" for finding in findings))
    return sum(one.bytes for one in checked)


def _kept(source: Lake, path: str) -> AbstractContextManager[object]:
    """A lease that keeps `garner gc` off what is being read, where the source may be written to."""
    name = f"copy.{uuid.uuid4().hex[:12]}"
    try:
        held = lease.take(source.folder, name, uses=(path,))
    except InputError as error:
        log.warning("nothing keeps %s from being removed while it is copied: %s", source.folder / path, error)
        return nullcontext()
    assert isinstance(held, Lease)
    return held


def _check_kept(folder: Folder) -> None:
    """Looked for once the lease is there: whoever removes it marks it first, and then looks for leases."""
    if removed(folder):
        raise InputError(f"{folder} was marked for removal since: `garner rm --undo` it, and copy again")


def _alone(target: Lake, folder: str) -> Lease:
    """The lease of the cache at the destination."""
    held = lease.take(target.folder, f"cache.{folder}", uses=(f"caches/{folder}",))
    if isinstance(held, Lease):
        return held
    raise RunError(f"{held} works on {target.folder}/caches/{folder} now: copy again once that has ended")
