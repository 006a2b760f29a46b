"""What is marked for removal: two steps, so that nothing anyone stands on ever goes.

First `removed.json` is created in the folder of a cache or artifact (`expired.json` in a segment's): whoever looks from
then on does not see it. `garner gc` removes the bytes later, once the mark is older than a grace that lets readers who
looked before finish.

A run needs no grace. It takes a lease that names all it reads and writes, and looks for marks *after* that; gc looks
for leases *after* it saw a mark, and for records after the leases, since a run writes its record before it ends its
lease.
So of a run and a removal, whichever comes second sees the other: the run refuses, or gc keeps what it uses.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

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
    """Undo `removed.json`; `InputError` where its bytes have begun to go. Only under the lease of the folder."""
    if folder.exists(PURGING):
        raise InputError(f"{folder} is half removed already: let `garner gc` finish, and make it again")
    folder.remove(REMOVED)


def purge(folder: Folder) -> None:
    """Remove everything of a cache or artifact that was marked; a call that was killed is finished by the next.

    Only under the lease of the folder, or while it is being made anew.
    """
    mark(folder, PURGING)
    for name in folder.names():
        if name not in _RECORDS:
            folder.remove(name)
    for name in _RECORDS:
        folder.remove(name)
    if folder.local is not None:
        folder.remove("")


def revive(folder: Folder) -> None:
    """What is asked for again is kept: take the mark back, or finish the purge so that it can be made anew."""
    names = folder.names()
    if PURGING in names:
        log.info("%s was being removed: finishing that first", folder)
        purge(folder)
    elif REMOVED in names:
        log.info("%s was marked for removal, and is asked for again: it stays", folder)
        take_back(folder)
