"""What stays in a lake and what goes: the lines of `garner pin`, `retention`, `rm` and `gc`."""

from collections.abc import Iterator, Sequence

from storage import duration
from storage.collect import collect
from storage.errors import InputError
from storage.lake import Lake
from storage.lease import Lease
from storage.pins import pin, unpin
from storage.references import References, locate, references
from storage.removal import REMOVED, alone, mark, removed, take_back
from storage.retention import retain
from storage.sweep import Found, find, look

_WORDS = {"purge": "removed", "drop": "removed", "mark": "marked", "expire": "expired", "keep": "kept"}

_FOLDERS = {"artifacts", "caches", "leases", "pins", "retention", "runs"}
"""Of a lake; each is there once it is needed."""


def pinned(lake: Lake, names: Sequence[str], why: str, undo: bool) -> Iterator[str]:
    """Pin what is named, or take the pins of this user back."""
    for path in [locate(lake, name) for name in names]:
        if undo:
            unpin(lake.folder, path)
            yield f"{path}: your pin is taken back"
        else:
            pin(lake.folder, path, why)
            if removed(lake.folder / path):
                unpin(lake.folder, path)
                raise InputError(f"{path} has just been marked for removal: `garner rm --undo` it, and pin it then")
            yield f"{path}: pinned, with all it stands on"


def retained(lake: Lake, name: str, span: str) -> Iterator[str]:
    """Keep a cache's segments, an artifact, or `runs` for a span of time, or for ever."""
    seconds = None if span == "none" else duration.parse(span)
    path = "runs" if name == "runs" else locate(lake, name)
    retain(lake.folder, path, seconds)
    what = {"runs": "folders of runs", "caches": "segments"}.get(path.partition("/")[0], "it")
    yield f"{path}: {what} kept {'for ever' if seconds is None else f'for {span}, then garner gc may take them'}"


def marked(lake: Lake, names: Sequence[str], why: str) -> Iterator[str]:
    """Mark what is named for removal; `InputError` lists what others stand on, and then nothing is marked."""
    paths = sorted({locate(lake, name) for name in names})
    _refuse(references(lake), paths)
    done: list[str] = []
    try:
        for path in paths:
            with alone(lake.folder, path) as lease:
                _mark(lake, path, paths, why, lease)
            done.append(path)
    except InputError:
        for path in done:
            take_back(lake.folder / path)
        raise
    for path in paths:
        yield f"{path}: marked; `garner gc` removes its bytes after a grace, until which `rm --undo` takes it back"


def _mark(lake: Lake, path: str, besides: Sequence[str], why: str, lease: Lease) -> None:
    """Mark, then look again: a run or a pin may have come since, and saw no mark."""
    mark(lake.folder / path, REMOVED, why)
    try:
        _refuse(references(lake, lease.holder.token), [path], besides)
    except InputError:
        take_back(lake.folder / path)
        raise


def _refuse(around: References, paths: Sequence[str], besides: Sequence[str] = ()) -> None:
    found = {path: around.holding(path, besides or paths) for path in paths}
    if problems := [f"{path}: {'; '.join(reasons)}" for path, reasons in found.items() if reasons]:
        raise InputError(
            "cannot be removed:\n  " + "\n  ".join(problems) + "\nname what was made from it too, or leave it"
        )


def unmarked(lake: Lake, names: Sequence[str]) -> Iterator[str]:
    """Take marks back while the bytes are there, if what it was made from is there too; else all are marked again."""
    paths = sorted({locate(lake, name, marked=True) for name in names}, reverse=True)  # caches first
    back: list[str] = []
    try:
        for path in paths:
            with alone(lake.folder, path):
                take_back(lake.folder / path)
            back.append(path)
        _require_inputs(lake, back)
    except InputError:
        for path in back:
            mark(lake.folder / path, REMOVED)
        raise
    for path in paths:
        yield f"{path}: it stays"


def _require_inputs(lake: Lake, paths: Sequence[str]) -> None:
    """That what each artifact was made from is there; looked for once the marks are gone, as `rm` looks for them."""
    there = {*lake.caches(), *lake.artifacts()}
    for path in paths:
        name = path.removeprefix("artifacts/")
        if name == path or name not in there:  # a cache, or what somebody marked again
            continue
        record = lake.artifact(name).record
        caches = (one.cache for one in record.inputs.values())
        wanted = {*caches, *record.artifacts.values(), record.previous} - {""}
        if lacking := sorted(wanted - there):
            raise InputError(f"{path} was made from {', '.join(lacking)}, which is gone or marked: undo that first")


def collected(lake: Lake, grace: str, dry_run: bool) -> Iterator[str]:
    """A line for all that goes, or would, and for what is marked and stays."""
    if _FOLDERS.isdisjoint(names := lake.folder.names()):
        raise InputError(
            f"{lake.folder} is no lake: it holds {', '.join(names[:5]) or 'nothing'} and none of "
            f"{', '.join(sorted(_FOLDERS))}: is the URL right?"
        )
    seconds = duration.parse(grace)
    found = find(lake, look(lake, seconds)) if dry_run else collect(lake, seconds)
    size = 0
    for one in found:
        size += one.bytes
        yield _line(one, dry_run)
    yield f"{'would free' if dry_run else 'freed'} {size / 2**20:,.1f} MiB"


def _line(one: Found, dry_run: bool) -> str:
    word = f"would be {_WORDS[one.action]}" if dry_run and one.action != "keep" else _WORDS[one.action]
    objects = f", {len(one.objects):,} objects" if one.objects else ""
    size = f" ({one.bytes / 2**20:,.1f} MiB{objects})" if one.bytes or one.objects else ""
    return f"{word:<16} {one.path}{size}: {one.why}"
