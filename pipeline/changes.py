"""Which files of a corpus are not as a cache took them."""

from collections.abc import Sequence

import msgspec

from pipeline import survey
from pipeline.schedule import ScheduleTable
from storage.cache import Cache
from storage.errors import InputError
from storage.manifest import SourceFile

_SHOWN = 6
"""Files named in a message."""


def with_digests(files: Sequence[SourceFile], held: Cache | None) -> tuple[SourceFile, ...]:
    """The files with what their contents hash to; a file whose size and time did not change is not read again."""
    taken = held.taken if held else {}
    known = {path: file.digest for path, file in taken.items()}
    same = {file.path for file in files if file.path in taken and _same(file, taken[file.path])}
    return tuple(
        msgspec.structs.replace(file, digest=known[file.path] if file.path in same else survey.digest(file))
        for file in files
    )


def changed(files: Sequence[SourceFile], held: Cache, schedule: ScheduleTable | None) -> tuple[str, ...]:
    """Files that are not as they were taken; refused, unless the schedule says to keep what was taken."""
    taken = held.taken
    found = tuple(
        file.path
        for file in files
        if (old := taken.get(file.path)) and (old.size, old.digest) != (file.size, file.digest)
    )
    if found and (schedule is None or schedule.changed == "refuse"):
        more = f" and {len(found) - _SHOWN} others" if len(found) > _SHOWN else ""
        raise InputError(
            f"{', '.join(found[:_SHOWN])}{more} changed after cache {held.id} took what was there: caches never "
            "change, so give the new text a file name of its own, or use another lake; a schedule with "
            'changed = "keep" passes over it'
        )
    return found


def _same(file: SourceFile, taken: SourceFile) -> bool:
    return (file.size, file.stamp) == (taken.size, taken.stamp)
