"""What is marked for removal: two steps, so that nothing anyone stands on ever goes.

First `removed.json` is created in the folder of a cache or artifact (`expired.json` in a segment's): whoever looks from
then on does not see it. `garner gc` removes the bytes later, once the mark is older than a grace that lets readers who
looked before finish.

A run needs no grace. It takes a lease that names all it reads and writes, and looks for marks *after* that. Whoever
marks looks for leases, and for pins, *after* that, and takes the mark back if one is there; so does gc before it
removes, and it looks for records after the leases, since a run writes its record before it ends its lease.
So of a run and a removal, whichever comes second sees the other: the run refuses, or what it uses stays. A pin is
made and looks the same way.

What removes holds the lease of the folder and asks, before each folder that goes, whether it still does: a gc that
slept for longer than its lease must not remove what another has made anew.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import PurePosixPath

from storage.errors import InputError
from storage.lease import Holder, Lease, take
from storage.process import owner
from storage.url import Folder
from storage.value import Value, decode_signed, signed

log = logging.getLogger(__name__)

REMOVED = "removed.json"
"""In a cache's or an artifact's folder."""
PURGING = "purging.json"
"""Beside it once bytes are being removed: from then on there is no way back but to finish."""
EXPIRED = "expired.json"
"""In a segment's folder; its `files.json` and `plan.json` stay, for files are taken once and rows are numbered."""
_RECORDS = ("cache.json", "record.json", REMOVED, PURGING)
"""Go last, in this order: what is left of a folder by a kill still says that it is going."""


class Removal(Value):
    """Who marked it, when, and why."""

    owner: str
    """User and host."""
    time: str
    """UTC by the owner's clock; for people, never compared."""
    why: str = ""


def removed(folder: Folder) -> bool:
    """Whether the cache or artifact there was marked."""
    return folder.exists(REMOVED) or folder.exists(PURGING)


def going(folder: Folder) -> bool:
    """Whether what was there when it was looked at before was marked since, or has gone altogether.

    The record last: while it is there, a purge has not come to the marks, so they were seen.
    """
    return removed(folder) or not (folder.exists("cache.json") or folder.exists("record.json"))


def mark(folder: Folder, name: str, why: str = "") -> None:
    """Create a mark of that name (`REMOVED`, `EXPIRED`, `PURGING`); the first stands."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    folder.create(name, signed(Removal(owner=owner(), time=now, why=why)))


def read_mark(folder: Folder, name: str) -> Removal | None:
    """The mark, if it is there."""
    data = folder.find(name)
    return None if data is None else decode_signed(data, Removal, str(folder / name))


@contextmanager
def alone(lake: Folder, path: str) -> Iterator[Lease]:
    """The lease of `caches/<name>` or `artifacts/<name>`; `InputError` says who holds it."""
    kind, _, name = path.partition("/")
    lease = take(lake, f"{kind.removesuffix('s')}.{name}", uses=(path,))
    if isinstance(lease, Holder):
        raise InputError(f"{path} is in use by {lease}: wait until that has ended")
    with lease:
        yield lease


def take_back(folder: Folder) -> None:
    """Undo `removed.json`; `InputError` where there is none, or bytes have begun to go.

    Only under the lease of the folder, or by who has just made the mark, for gc does not come before a grace.
    """
    names = folder.names()
    if PURGING in names:
        raise InputError(f"{folder} is half removed already: let `garner gc` finish, and make it again")
    if REMOVED not in names:
        raise InputError(f"{folder} is not marked for removal: there is nothing to undo")
    folder.remove(REMOVED)


def purge(folder: Folder, check: Callable[[], object] = lambda: None) -> None:
    """Remove everything of a cache or artifact that was marked; a call that was killed is finished by the next.

    Only under the lease of the folder; `check` raises once that is lost, and is asked before each folder that goes.
    """
    mark(folder, PURGING)
    paths = [PurePosixPath(one.path) for one in folder.tree()]
    above = {path.parent for path in paths if path.parent.name}
    names = [str(path) for path in sorted(above, key=lambda path: (-len(path.parts), path))]  # what lies deeper first
    names += [path.name for path in paths if not path.parent.name and path.name not in _RECORDS]
    for name in (*names, *_RECORDS):
        check()
        folder.remove(name)
    if folder.local is not None:
        check()
        folder.remove("")


def keep(lake: Folder, path: str) -> None:
    """`revive` what a run is about to make, once nobody removes it any more; the run's lease uses it already."""
    if removed(lake / path):
        kind, _, name = path.partition("/")
        lease = take(lake, f"{kind.removesuffix('s')}.{name}", uses=(path,), waiting=_wait)
        assert isinstance(lease, Lease)
        with lease:
            revive(lake / path)


def _wait(holder: Holder) -> None:
    log.info("%s is at work on it: waiting", holder)


def revive(folder: Folder) -> None:
    """What is asked for again is kept: take the mark back, or finish the purge so that it can be made anew.

    Only under the lease of the folder.
    """
    names = folder.names()
    if PURGING in names:
        log.info("%s was being removed: finishing that first", folder)
        purge(folder)
    elif REMOVED in names:
        log.info("%s was marked for removal, and is asked for again: it stays", folder)
        take_back(folder)
