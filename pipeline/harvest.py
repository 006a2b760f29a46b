"""Harvesting one segment: the units that some site lacks, on the pool, then the seals."""

from functools import partial
from typing import TYPE_CHECKING

from pipeline.progress import Progress
from storage.segment import Segment
from storage.site import Site, stored_dtype
from workers.pool import Pool

if TYPE_CHECKING:
    from workers.harvest import HarvestSpec, Rows

ROWS: "dict[str, Rows]" = {"patches": "patches", "entries": "entries"}
"""What a row is, by the kind of tokenisation; `tokens` for all others."""


def harvest(name: str, segment: Segment, spec: "HarvestSpec", pool: Pool, progress: Progress) -> None:
    """Bring every site of `spec` to its seal; `name` is what progress calls it."""
    sites = tuple(Site.parse(site) for site in spec.widths)
    layouts = {site: segment.layout(spec.widths[str(site)], stored_dtype(site, spec.dtype)) for site in sites}
    for site, shape in layouts.items():
        segment.create_array(site, shape)
    _units(name, segment, spec, sites, pool, progress)
    for site, shape in layouts.items():
        segment.seal(site, shape)


def _units(
    name: str, segment: Segment, spec: "HarvestSpec", sites: tuple[Site, ...], pool: Pool, progress: Progress
) -> None:
    from workers.harvest import Harvester, UnitTask

    done = {site: segment.units_done(site) for site in sites}
    tasks = [
        UnitTask(unit=unit, sites=tuple(site for site in sites if unit not in done[site]))
        for unit in range(segment.plan.n_units)
    ]
    tasks = [task for task in tasks if task.sites]
    rows = [stop - first for first, stop in (segment.plan.unit_range(task.unit) for task in tasks)]
    meter = progress.meter(f"{name}: {len(sites)} sites", sum(rows), "rows")
    for receipt in pool.map(partial(Harvester, spec), tasks):
        meter.advance(receipt.rows, receipt.forward_tokens)
    meter.close()
