"""Harvesting one segment: the units that some site lacks, on the pool, then the seals."""

import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from pipeline.progress import Progress
from storage.segment import Segment
from storage.site import Site, stored_dtype
from storage.value import Value
from workers.pool import Pool

if TYPE_CHECKING:
    from workers.harvest import HarvestSpec, Rows

ROWS: "dict[str, Rows]" = {"patches": "patches", "entries": "entries"}
"""What a row is, by the kind of tokenisation; `tokens` for all others."""


class Harvested(Value):
    """What a harvest came to, summed over its receipts."""

    units: int = 0
    rows: int = 0
    forward_tokens: int = 0
    seconds: float = 0.0
    """Wall time."""
    busy: float = 0.0
    """Seconds that workers spent on units, summed over workers."""
    workers: int = 0
    """Workers that had a unit."""
    timings: dict[str, float] = {}
    """Seconds by what for, summed over workers."""
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
    began, receipts = time.monotonic(), []
    for receipt in pool.map(partial(Harvester, spec), tasks):
        meter.advance(receipt.rows, receipt.forward_tokens)
        receipts.append(receipt)
    meter.close()
    return Harvested(
        units=len(receipts),
        rows=sum(receipt.rows for receipt in receipts),
        forward_tokens=sum(receipt.forward_tokens for receipt in receipts),
        seconds=time.monotonic() - began,
        busy=sum(receipt.seconds for receipt in receipts),
        workers=len({receipt.worker for receipt in receipts}),
    )
