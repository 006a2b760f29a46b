"""Lineage both ways: what a cache or an artifact came from, and what stands on it. Read from records alone."""

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from storage.artifact import Artifact, Input, Record
from storage.cache import Cache
from storage.errors import GarnerError, InputError
from storage.lake import Lake
from storage.removal import removed
from storage.segment import Segment
from storage.value import Value

log = logging.getLogger(__name__)

READERS = 16
"""Records asked for at once."""
_SHOWN = 3
"""Files of a segment that a tree names for people; JSON names all."""


class Node(Value):
    """One thing that something came from, or that stands on it, and in turn what that came from or carries."""

    kind: str
    """`model`, `corpus`, `segment`, `file`, `cache`, or a kind of job."""
    name: str
    what: str = ""
    """What of it, in words."""
    nodes: tuple["Node", ...] = ()


def records(lake: Lake) -> dict[str, Record]:
    """Of every finished artifact; one that is damaged is warned of, and does not hide the others."""
    names = lake.artifacts()
    with ThreadPoolExecutor(READERS) as pool:
        found = pool.map(lambda name: _record(lake, name), names)
        return {name: record for name, record in zip(names, found, strict=True) if record is not None}


def _record(lake: Lake, name: str) -> Record | None:
    try:
        return lake.artifact(name).record
    except GarnerError as error:
        log.warning("nobody knows what artifact %s stands on: %s", name, error)
        return None


def cache_origins(cache: Cache) -> tuple[Node, ...]:
    """The model and the files that a cache came from."""
    what = cache.record.identity
    model = f"{what.model.revision or 'a folder'} in {what.model.dtype}, weights {what.model.weights[:12]}"
    corpus = " ".join(f"{key}={value}" for key, value in what.corpus.items() if value)
    segments = tuple(_segment(segment) for segment in cache.segments)
    return (
        Node(kind="model", name=what.model.name, what=model),
        Node(kind="corpus", name=cache.record.name.removeprefix(f"{what.model.name}."), what=corpus, nodes=segments),
    )


def _segment(segment: Segment) -> Node:
    files = segment.claimed.files
    size = sum(file.size for file in files)
    nodes = tuple(Node(kind="file", name=file.path, what=f"{file.size:,} bytes") for file in files)
    return Node(kind="segment", name=str(segment.number), what=f"{len(files):,} files, {size:,} bytes", nodes=nodes)


def artifact_origins(lake: Lake, record: Record) -> tuple[Node, ...]:
    """The caches and artifacts an artifact was made from, and the one it went on from, each with its own origins."""
    caches = tuple(
        Node(
            kind="cache",
            name=one.cache,
            what=f"segments {one.first} to {one.segments - 1}; {' '.join(one.sites)}",
            nodes=_of_cache(lake, one),
        )
        for one in {(one.cache, one.first, one.segments, one.sites): one for one in record.inputs.values()}.values()
    )
    artifacts = (_artifact(lake, one, f"as {name}") for name, one in record.artifacts.items())
    previous = (_artifact(lake, record.previous, "went on from"),) if record.previous else ()
    return (*caches, *artifacts, *previous)


def _of_cache(lake: Lake, one: Input) -> tuple[Node, ...]:
    """The origins of the segments that were read."""
    folder = lake.folder / f"caches/{one.cache}"
    try:
        if removed(folder):
            raise InputError(f"{folder} was marked for removal")
        return cache_origins(Cache(folder, window=(one.first, one.segments)))
    except GarnerError as error:
        return (Node(kind="gone", name=one.cache, what=str(error)),)


def _artifact(lake: Lake, name: str, what: str) -> Node:
    """An artifact's id is made from those before it, so no chain ends in itself."""
    try:
        record = Artifact(lake.artifact_folder(name)).record
    except GarnerError as error:
        return Node(kind="gone", name=name, what=str(error))
    return Node(kind=record.kind, name=name, what=what, nodes=artifact_origins(lake, record))


def on_cache(name: str, there: dict[str, Record]) -> tuple[Node, ...]:
    """The artifacts that were made from a cache, each with those that went on from it."""
    readers = {
        one: " and ".join(
            _read(read.first, read.segments, read.sites) for read in record.inputs.values() if read.cache == name
        )
        for one, record in there.items()
        if any(read.cache == name for read in record.inputs.values())
    }
    later = {one for one in readers if there[one].previous in readers}  # stand below those that they went on from
    return tuple(
        Node(kind=there[one].kind, name=one, what=what, nodes=on_artifact(one, there))
        for one, what in readers.items()
        if one not in later
    )


def _read(first: int, stop: int, sites: Sequence[str]) -> str:
    return f"read segments {first} to {stop - 1}; {' '.join(sites)}"


def on_artifact(name: str, there: dict[str, Record]) -> tuple[Node, ...]:
    """The artifacts that were made from an artifact or went on from it, and so on."""
    return tuple(
        Node(kind=record.kind, name=one, what=what, nodes=on_artifact(one, there))
        for one, record in there.items()
        for what in _standing(record, name)
    )


def _standing(record: Record, name: str) -> Iterator[str]:
    """In which ways it stands on that artifact."""
    if record.previous == name:
        yield "went on from it"
    yield from (f"has it as {alias}" for alias, one in record.artifacts.items() if one == name)


def tree(nodes: Sequence[Node], indent: str = "    ") -> Iterator[str]:
    """The nodes as indented lines; of many files only the first are named."""
    files = [node for node in nodes if node.kind == "file"]
    for node in nodes:
        if node.kind == "file" and node in files[_SHOWN:]:
            continue
        yield f"{indent}{node.kind} {node.name}{': ' if node.what else ''}{node.what}"
        yield from tree(node.nodes, f"{indent}  ")
    if len(files) > _SHOWN:
        yield f"{indent}and {len(files) - _SHOWN:,} more files"
