"""What a cache step will take: bytes, objects, tokens, hours, and whether the disk has room.

The formulas are in docs/catalogue.md.
"""

import logging
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from pipeline import survey
from pipeline.lineage import READERS
from pipeline.plan import CacheStep, Step
from pipeline.recipe import CacheTable, Opened, PoolTable
from pipeline.sizes import stored_bytes
from storage.dtype import DtypeName
from storage.errors import GarnerError, InputError
from storage.lake import Lake
from storage.layout import Compress, Layout, layout, rows_per_unit, shard_bytes
from storage.manifest import CacheRecord, read_versioned
from storage.runs import Run, StepRun, runs
from storage.site import Site, stored_dtype
from storage.url import Folder
from storage.value import Value

log = logging.getLogger(__name__)

_RUNS = 50
"""Newest runs in which a speed is looked for."""
_STEPS = 5
"""Harvests of a model, the newest ones, that its speed is the mean of."""


class Piece(Value):
    """A segment, or the new files that will be one."""

    rows: int
    unit: int
    shard_bytes: int
    compress: Compress
    lacking: dict[str, int]
    """Units left, by site."""
    guessed: bool
    """Whether the rows are only guessed, from the size of files."""

    @property
    def units(self) -> int:
        return -(-self.rows // self.unit)

    def share(self, site: str) -> float:
        """Of the site's units, those that are left."""
        return self.lacking[site] / self.units if self.units else 0.0

    def layout(self, site: str, d: int, dtype: DtypeName) -> Layout:
        """How a site lies in it."""
        kept = stored_dtype(Site.parse(site), dtype)
        return layout(self.rows, d, kept, self.unit, self.shard_bytes, self.compress)


class Estimate(Value):
    """What a cache will hold once the recipe has run, and what of it is left to harvest."""

    sites: dict[str, int]
    """Bytes of every site of the whole cache."""
    tokens: int
    """Of the whole cache."""
    bytes_left: int
    bytes_known: int
    """Of `bytes_left`, those in segments whose tokens are indexed: exact, or a bound where shards are compressed."""
    objects_left: int
    tokens_left: int
    rough: bool
    """Whether rows are guessed, or units of different sizes are counted as if they were alike."""
    bound: bool
    """Whether shards will be compressed, so that bytes are at most these."""
    selected: bool
    """Whether the model reads more tokens than there are rows."""

    @property
    def bytes(self) -> int:
        return sum(self.sites.values())


class Speed(Value):
    """How fast one worker harvests a model."""

    tokens_per_second: float
    source: str
    """Where the number is from, in words."""

    def hours(self, tokens: int) -> float:
        """Of one worker."""
        return tokens / self.tokens_per_second / 3600


def estimate(step: CacheStep, table: CacheTable) -> Estimate:
    """Sizes of a cache step, by the recipe's table where files are not indexed yet."""
    facts, pieces = step.facts, tuple(_pieces(step, table))
    dtype, unindexed = facts.record.identity.dtype, any(one.rows is None for one in facts.segments)
    cuts = [(piece, site, piece.layout(site, d, dtype)) for piece in pieces for site, d in facts.widths.items()]
    left = [(piece, stored_bytes(shape) * piece.share(site)) for piece, site, shape in cuts]
    parts = len(survey.parts(survey.CorpusFacts(files=facts.new_files)))
    per_segment = 3  # files.json, plan.json, sites/zarr.json
    per_site = 2  # its zarr.json, its seal
    return Estimate(
        sites={site: sum(stored_bytes(shape) for _, one, shape in cuts if one == site) for site in facts.widths},
        tokens=sum(piece.rows for piece in pieces),
        bytes_left=round(sum(size for _, size in left)),
        bytes_known=round(sum(size for piece, size in left if not piece.guessed)),
        objects_left=parts
        + per_segment * any(piece.guessed for piece in pieces)
        + sum(
            round(shape.n_shards * piece.share(site)) + piece.lacking[site] + per_site
            for piece, site, shape in cuts
            if piece.lacking[site]
        ),
        tokens_left=round(sum(piece.rows * max(map(piece.share, facts.widths)) for piece in pieces)),
        rough=unindexed or any(piece.guessed or _begun(piece) for piece in pieces),
        bound=any(piece.compress != "none" for piece in pieces),
        selected="select" in facts.tokenisation,
    )


def _pieces(step: CacheStep, table: CacheTable) -> Iterator[Piece]:
    """The segments whose tokens are indexed, then the new files."""
    facts = step.facts
    for segment in facts.segments:
        if segment.rows is not None:
            done = {
                site: segment.units if site in segment.sealed else segment.done.get(site, 0) for site in facts.widths
            }
            yield Piece(
                rows=segment.rows,
                unit=segment.rows_per_unit,
                shard_bytes=segment.shard_bytes,
                compress=segment.compress,
                lacking={site: segment.units - count for site, count in done.items()},
                guessed=False,
            )
    if step.estimate:
        unit = rows_per_unit(int(facts.tokenisation.get("context") or 1), table.unit)
        units = -(-step.estimate // unit)
        yield Piece(
            rows=step.estimate,
            unit=unit,
            shard_bytes=shard_bytes(table.shard),
            compress=table.compress,
            lacking=dict.fromkeys(facts.widths, units),
            guessed=True,
        )


def _begun(piece: Piece) -> bool:
    """Whether some unit of a site is done and another is not: the last one is shorter than the others."""
    return any(0 < lacking < piece.units for lacking in piece.lacking.values())


def harvests(lake: Lake) -> tuple[StepRun, ...]:
    """The harvests of the newest runs in the lake, the latest first."""
    newest = runs(lake.folder)[: -_RUNS - 1 : -1]
    with ThreadPoolExecutor(READERS) as pool:
        return tuple(step for steps in pool.map(_harvests, newest) for step in reversed(steps))


def _harvests(run: Run) -> tuple[StepRun, ...]:
    try:
        done = run.record
    except GarnerError as error:
        log.warning("a run's record tells no speed: %s", error)
        return ()
    return tuple(step for step in (done.steps if done else ()) if step.kind == "cache" and step.tokens and step.workers)


def measured(lake: Lake, done: Sequence[StepRun], record: CacheRecord, on_gpu: bool) -> Speed | None:
    """What harvests of the model of `record` say on such a device, one worker's share; None if there was none."""
    found = list(islice((step for step in done if _tells(lake, step, record, on_gpu)), _STEPS))
    seconds = sum(step.seconds * step.workers for step in found)
    if not seconds:
        return None
    speed = sum(step.tokens for step in found) / seconds
    said = f"measured in {len(found)} earlier harvest{'' if len(found) == 1 else 's'}"
    return Speed(tokens_per_second=speed, source=said)


def _tells(lake: Lake, step: StepRun, wanted: CacheRecord, on_gpu: bool) -> bool:
    """Whether the step harvested that model on such a device."""
    if (step.device != "cpu") != on_gpu:
        return False
    if step.folder.endswith(f"-{wanted.id}"):
        return True
    model = wanted.identity.model
    data = (lake.folder / f"caches/{step.folder}").find("cache.json") if step.folder.startswith(model.name) else None
    where = f"caches/{step.folder}/cache.json"
    return data is not None and read_versioned(data, CacheRecord, where).identity.model == model


def gpus_a_worker(pool: PoolTable) -> float:
    """GPUs of one worker; of groups the mean over their workers."""
    if not pool.groups:
        return pool.gpus
    weights = [group.workers or 1 for group in pool.groups]
    return sum(group.gpus * n for group, n in zip(pool.groups, weights, strict=True)) / sum(weights)


def check_disk(opened: Opened, steps: Sequence[Step]) -> None:
    """Refuse what a local lake's disk has no room for; where sizes are guesses or bounds, only warn."""
    free = free_bytes(Folder.at(opened.lake))
    if free is None:
        return
    sizes = [
        estimate(step, opened.recipe.caches[step.name])
        for step in steps
        if isinstance(step, CacheStep) and not step.done
    ]
    certain = sum(size.bytes_known for size in sizes if not size.bound)
    likely = sum(size.bytes_left for size in sizes)
    said = f"{opened.lake} has {free / 2**30:,.1f} GiB free, and the run will write"
    if certain > free:
        raise InputError(f"{said} {certain / 2**30:,.1f} GiB: free some, name another lake, or ask for fewer sites")
    if likely > free:
        log.warning("%s about %.1f GiB: it may stop half way; what is whole stays then", said, likely / 2**30)


def free_bytes(lake: Folder) -> int | None:
    """Of the disk that the lake is on; None on an object store, which has no end."""
    if lake.local is None:
        return None
    there = next(path for path in (lake.local, *lake.local.parents) if path.exists())
    return shutil.disk_usage(there).free
