"""Taking away what is damaged of one site, so that harvesting again makes it, and it alone.

The seal goes first and a shard goes before its mark: killed anywhere between, nothing damaged is left that a reader or
a writer would trust.
"""

from collections.abc import Sequence
from contextlib import suppress

from storage.errors import GarnerError, RunError
from storage.layout import Layout
from storage.segment import Segment, array_metadata, group_metadata, mark_name, seal_name
from storage.shard import key
from storage.site import Site
from storage.verify import Finding, trusted


def layout_of(segment: Segment, site: Site) -> Layout:
    """How the site lies, from its seal or else from its metadata; `RunError` where neither is whole."""
    shape = segment.described(site)
    if site in segment.sealed:
        with suppress(GarnerError):
            shape = segment.read_seal(site).layout
    if shape is None or shape != segment.layout(shape.d, shape.dtype):
        raise RunError(
            f"{segment.folder}: neither the seal of {site} nor its zarr.json is whole, so its layout is not known: "
            f"remove sites/{site}, done/{site} and sealed/{site}.json there, and run the recipe"
        )
    return shape


def take_away(segment: Segment, site: Site, findings: Sequence[Finding]) -> list[int]:
    """Remove the damaged objects and what vouches for them; the shards that are to be harvested again."""
    shape, names = layout_of(segment, site), {one.name for one in findings}
    units = {unit: shape.shards_within(*segment.plan.unit_range(unit)) for unit in range(segment.plan.n_units)}
    unmarked = [unit for unit in units if mark_name(site, unit) in names]
    known = trusted(segment, site)
    # a shard that neither seal nor mark vouches for is not adopted: who would know what it was
    unknown = {shard for unit in unmarked for shard in units[unit] if shard not in known}
    shards = sorted(unknown | {shard for shard in known if key(shard) in names})
    _remove(segment, seal_name(site))
    for shard in shards:
        _remove(segment, f"sites/{site}/{key(shard)}")
    if segment.array(site).find("zarr.json") != array_metadata(shape):
        _remove(segment, f"sites/{site}/zarr.json")
    if segment.folder.find("sites/zarr.json") != group_metadata():
        _remove(segment, "sites/zarr.json")
    for unit, range_ in units.items():
        if unit in unmarked or set(range_) & set(shards):
            _remove(segment, mark_name(site, unit))
    return shards


def _remove(segment: Segment, name: str) -> None:
    if segment.folder.exists(name):
        segment.folder.remove(name)
