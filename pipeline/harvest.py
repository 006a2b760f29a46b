"""Harvesting one segment: the units that some site lacks, on the pool, then the seals."""

import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from pipeline.progress import Progress
from storage.segment import Segment
from storage.site import Site, stored_dtype
from storage.value import Value
from workers.pool import Needs, Pool

if TYPE_CHECKING:
    from workers.feed import Rows
    from workers.harvest import HarvestSpec, UnitReceipt

ROWS: "dict[str, Rows]" = {"patches": "patches", "entries": "entries"}
"""What a row is, by the kind of tokenisation; `tokens` for all others."""


OVERLAPPING = Needs(threads=2)
"""While a unit's last shards are written and marked, its worker runs the model over the next unit."""


class Harvested(Value):
    """What a harvest came to, summed over its receipts."""

    units: int = 0
    rows: int = 0
    forward_tokens: int = 0
    seconds: float = 0.0
    """Wall time."""
    busy: float = 0.0
    """Seconds in which workers read, ran and stored units, summed over workers; at most seconds times workers."""
    workers: int = 0
    """Workers that had a unit."""
    timings: dict[str, float] = {}
    """Seconds by what for, as `workers.timings` tells them apart, summed over workers."""
    bytes: int = 0
    """Written."""
    device: str = "cpu"


def total(parts: Sequence[Harvested]) -> Harvested:
    """Several harvests of one cache as one."""
    timings: Counter[str] = Counter()
    for part in parts:
        timings.update(part.timings)
    return Harvested(
        units=sum(part.units for part in parts),
        rows=sum(part.rows for part in parts),
        forward_tokens=sum(part.forward_tokens for part in parts),
        seconds=sum(part.seconds for part in parts),
        busy=sum(part.busy for part in parts),
        workers=max((part.workers for part in parts), default=0),
        timings=dict(timings),
        bytes=sum(part.bytes for part in parts),
        device=next((part.device for part in parts), "cpu"),
    )


def harvest(name: str, segment: Segment, spec: "HarvestSpec", pool: Pool, progress: Progress) -> Harvested:
    """Bring every site of `spec` to its seal; `name` is what progress calls it."""
    sites = tuple(Site.parse(site) for site in spec.widths)
    layouts = {site: segment.layout(spec.widths[str(site)], stored_dtype(site, spec.dtype)) for site in sites}
    for site, shape in layouts.items():
        segment.create_array(site, shape)
    harvested = _units(name, segment, spec, sites, pool, progress)
    for site, shape in layouts.items():
        segment.seal(site, shape)
    return harvested


def _units(
    name: str, segment: Segment, spec: "HarvestSpec", sites: tuple[Site, ...], pool: Pool, progress: Progress
) -> Harvested:
    from workers.harvest import Harvester, UnitTask

    done = {site: segment.units_done(site) for site in sites}
    tasks = [
        UnitTask(unit=unit, sites=tuple(site for site in sites if unit not in done[site]))
        for unit in range(segment.plan.n_units)
    ]
    tasks = [task for task in tasks if task.sites]
    rows = [stop - first for first, stop in (segment.plan.unit_range(task.unit) for task in tasks)]
    meter = progress.meter(f"{name}: {len(sites)} sites", sum(rows), "rows")
    began, sums = time.monotonic(), _Sums()
    for receipt in pool.map(partial(Harvester, spec), tasks, OVERLAPPING):
        meter.advance(receipt.rows, receipt.forward_tokens)
        sums.add(receipt)
    meter.close()
    return sums.harvested(time.monotonic() - began)


class _Sums:
    """What the receipts add up to; they themselves are not kept, for there may be many."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._busy, self._timings = 0.0, Counter[str]()
        self._workers: set[str] = set()
        self._device = "cpu"

    def add(self, receipt: "UnitReceipt") -> None:
        """Count one more."""
        self._counts.update(units=1, rows=receipt.rows, forward_tokens=receipt.forward_tokens, bytes=receipt.bytes)
        self._busy += receipt.busy
        self._timings.update(msgspec.structs.asdict(receipt.timings))
        self._workers.add(receipt.worker)
        self._device = receipt.device

    def harvested(self, seconds: float) -> Harvested:
        """All of it, after so many seconds."""
        return Harvested(
            **self._counts,
            seconds=seconds,
            busy=self._busy,
            workers=len(self._workers),
            timings=dict(self._timings),
            device=self._device,
        )
