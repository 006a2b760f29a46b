"""One harvest at a time of a cache: whoever comes second follows the first, and takes over if it dies."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from storage.cache import Cache
from storage.errors import GarnerError
from storage.lake import Lake
from storage.lease import Holder, Lease, take

log = logging.getLogger(__name__)

_EVERY = 10.0
"""Seconds between two lines of what is waited for."""


@contextmanager
def harvesting(lake: Lake, folder: str) -> Iterator[Lease]:
    """The lease of the cache named `folder`; waits for a holder to end or die, and says how far it is."""
    lease = take(lake.folder, f"cache.{folder}", uses=(f"caches/{folder}",), waiting=_following(lake, folder))
    assert isinstance(lease, Lease)
    with lease:
        yield lease


def _following(lake: Lake, folder: str) -> Callable[[Holder], None]:
    said = 0.0

    def follow(holder: Holder) -> None:
        nonlocal said
        if not said or time.monotonic() - said > _EVERY:
            said = time.monotonic()
            log.info("cache %s is being harvested by %s: %s; waiting for it", folder, holder, _far(lake, folder))

    return follow


def _far(lake: Lake, folder: str) -> str:
    """How far the harvest is, by its marks."""
    try:
        newest = Cache(lake.folder / f"caches/{folder}").segments[-1]
        if not newest.planned:
            return f"{len(newest.parts_done())} of {len(newest.claimed.parts)} parts are tokenised"
        sites = newest.folder.names("done")
        done = min((len(newest.folder.names(f"done/{site}")) for site in sites), default=0)
        return f"{done} of {newest.plan.n_units} units of segment {newest.number} are done"
    except (GarnerError, IndexError, FileNotFoundError):
        return "just begun"
