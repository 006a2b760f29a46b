"""Building one cache: claim, tokenise, plan, harvest, seal. Each stage does only what the lake does not hold yet."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from pipeline import readers, survey
from pipeline.corpus import Corpus
from pipeline.facts import CacheFacts
from pipeline.harvest import ROWS, Harvested, harvest, total
from pipeline.plan import CacheStep
from pipeline.progress import Progress
from pipeline.recipe import CacheTable, PoolTable
from storage.artifact import versions
from storage.cache import Cache, unseen
from storage.dtype import FloatName
from storage.errors import InputError, RunError
from storage.lake import Lake
from storage.layout import shard_bytes
from storage.manifest import Claim, SourceFile
from storage.process import owner
from storage.segment import Segment
from storage.sets import claim as claim_set
from storage.site import Site
from storage.value import Value, convert
from workers.pool import Needs, Pool

if TYPE_CHECKING:
    from workers.harvest import HarvestSpec


CPU_ALONE = Needs(device=False)


class CacheRun(Value):
    """All that building one cache needs."""

    step: CacheStep
    table: CacheTable
    corpus: Corpus
    model_dtype: FloatName
    pool: PoolTable


class Built(Value):
    """What bringing one cache to where the recipe wants it took."""

    seconds: float
    segments: tuple[int, ...]
    """Numbers of the segments of which something was harvested."""
    files: int
    """Of these segments."""
    tokenise: float
    """Seconds of tokenising, wall time."""
    harvested: Harvested


def build(run: CacheRun, lake: Lake, pool: Pool, progress: Progress) -> Built:
    """Bring one cache to where the recipe wants it."""
    facts, began = run.step.facts, time.monotonic()
    cache = lake.create(msgspec.structs.replace(facts.record, made=_provenance(facts)))
    segments = tuple(_segments(cache, facts, run.table))
    for segment in segments:
        if not segment.planned:
            _tokenise(run, segment, pool, progress)
    indexed = time.monotonic()
    if not any(segment.plan.rows for segment in segments):
        documents = sum(segment.plan.documents for segment in segments)
        raise InputError(
            f"{run.step.name}: the corpus's {documents} documents have no row at all: give it some with text, or "
            "select other tokens"
        )
    for name, tokens in facts.sets.items():
        claim_set(cache.folder, name, tokens)
    done = [(segment, _harvest(run, segment, pool, progress)) for segment in segments]
    grown = [(segment, one) for segment, one in done if one is not None]
    return Built(
        seconds=time.monotonic() - began,
        segments=tuple(segment.number for segment, _ in grown),
        files=sum(len(segment.claimed.files) for segment, _ in grown),
        tokenise=indexed - began,
        harvested=total([one for _, one in grown]),
    )


def _provenance(facts: CacheFacts) -> dict[str, str]:
    """What is worth knowing of a cache's making and changes no number."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"model": facts.source, "revision": facts.revision, "time": now, "owner": owner(), **versions()}


def _segments(cache: Cache, facts: CacheFacts, table: CacheTable) -> Iterator[Segment]:
    """Known segments first, then one for the files that none of them took.

    Looked up again, for another run may have taken files since this one was planned.
    """
    yield from cache.segments
    files = unseen(cache, facts.new_files)
    if files:
        segment = cache.next_segment()
        wanted = Claim(
            files=files,
            parts=_groups(files),
            unit=table.unit,
            shard_bytes=shard_bytes(table.shard),
            compress=table.compress,
        )
        claim = segment.claim(wanted)
        if claim.files != files:
            raise RunError(f"{segment.folder}: another run has just claimed other files; run again to join it")
        yield segment


def _groups(files: tuple[SourceFile, ...]) -> tuple[tuple[int, ...], ...]:
    """Indices of the files of every token part."""
    sizes = [len(part) for part in survey.parts(survey.CorpusFacts(files=files))]
    starts = [sum(sizes[:n]) for n in range(len(sizes))]
    return tuple(tuple(range(start, start + size)) for start, size in zip(starts, sizes, strict=True))


def _tokenise(run: CacheRun, segment: Segment, pool: Pool, progress: Progress) -> None:
    from workers.tokenise import TokeniseSpec, TokenWorker
    from workers.tokens import Tokenisation

    facts = run.step.facts
    spec = TokeniseSpec(
        source=facts.source,
        revision=facts.revision,
        tokenisation=convert(facts.tokenisation, Tokenisation, run.step.name),
        segment=segment.folder.url,
        number=segment.number,
    )
    segment.folder.settle()  # another run may have made the claim
    missing = sorted(set(range(len(segment.claimed.parts))) - segment.parts_done())
    meter = progress.meter(f"{run.step.name}: tokens", len(missing), "parts")
    for _ in pool.map(partial(TokenWorker, spec, partial(readers.read, run.corpus)), missing, CPU_ALONE):
        meter.advance(1)
    plan = segment.fix()
    meter.close(f"{plan.rows:,} rows of {plan.documents:,} documents")


def _harvest(run: CacheRun, segment: Segment, pool: Pool, progress: Progress) -> Harvested | None:
    wanted = [site for site in map(Site.parse, run.step.facts.widths) if site not in segment.sealed]
    if not wanted:
        return None
    return harvest(run.step.name, segment, _spec(run, segment, wanted), pool, progress)


def _spec(run: CacheRun, segment: Segment, sites: list[Site]) -> "HarvestSpec":
    from workers.harvest import HarvestSpec
    from workers.model import ModelSpec

    facts = run.step.facts
    model = ModelSpec(
        source=facts.source,
        revision=facts.revision,
        dtype=run.model_dtype,
    )
    return HarvestSpec(
        model=model,
        segment=segment.folder.url,
        number=segment.number,
        widths={str(site): facts.widths[str(site)] for site in sites},
        dtype=run.table.dtype,
        rows=ROWS.get(facts.tokenisation["kind"], "tokens"),
        batch_tokens=run.pool.batch_tokens,
        nonfinite=run.table.nonfinite,
        sets={site.path: facts.sets[site.path].ids for site in sites if site.kind == "logits"},
    )
