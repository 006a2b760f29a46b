"""What planning needs to know of the world: models, corpora, and what the lake holds already. All reading is here."""

import hashlib
import logging
from pathlib import Path
from typing import Any

import msgspec

from pipeline import changes, sites, survey
from pipeline import tokenisation as tokenisations
from pipeline.corpus import Corpus, name
from pipeline.memory import Memory, Model, largest_part, of_harvest
from pipeline.recipe import CacheTable, ModelTable, Opened, expand
from storage.advice import suggestion
from storage.artifact import Record
from storage.cache import Cache, unseen
from storage.dtype import DtypeName, logical
from storage.errors import InputError
from storage.lake import Lake
from storage.layout import Compress, Layout, layout, shard_bytes
from storage.manifest import CacheIdentity, CacheRecord, ModelIdentity, SourceFile, make_record
from storage.sets import TokenSet, check
from storage.site import Site, stored_dtype
from storage.value import Value, convert

log = logging.getLogger(__name__)


class SegmentState(Value):
    """How far one segment of a cache has come."""

    number: int
    files: int
    rows: int | None
    """None until its tokens are indexed."""
    rows_per_unit: int
    units: int
    done: dict[str, int]
    """Units marked, by site; a sealed site has all of them."""
    sealed: tuple[str, ...]
    part: int
    """Bytes of the files of its largest token part."""
    shard_bytes: int
    compress: Compress


class CacheFacts(Value):
    """All that is known of one cache of the recipe."""

    record: CacheRecord
    folder: str
    """Name of its folder in the lake, there or not yet."""
    widths: dict[str, int]
    """Width of every site the recipe asks for."""
    segments: tuple[SegmentState, ...]
    n_claimed: int
    """Segments there ever were, expired ones too: the number of the next."""
    new_files: tuple[SourceFile, ...]
    """Files that no segment took yet; they will be the next segment."""
    gone: int
    """Files of earlier segments that the corpus no longer has; their rows stay."""
    source: str
    """Where the model is read: hub id or absolute folder."""
    revision: str
    tokenisation: dict[str, Any]
    sets: dict[str, TokenSet] = {}
    """The tokens of every set whose logits the recipe asks for."""
    changed: tuple[str, ...] = ()
    """Files that changed since a segment took them, where the schedule says to keep what was taken."""
    memory: Memory | None = None
    """What a worker that harvests it holds; None for a cache that only the lake knows."""


class Facts(Value):
    """All that planning knows."""

    caches: dict[str, CacheFacts]
    shared: dict[str, CacheFacts]
    """Caches that jobs name and only the lake knows."""
    artifacts: frozenset[str]
    """Finished artifacts in the lake."""
    candidates: tuple[Record, ...] = ()
    """Of the kinds of which a job continues: what it may go on from."""
    digests: dict[str, str] = {}
    """SHA-256 of what jobs read beside caches, by path."""


def gather(opened: Opened, named: frozenset[str], read: frozenset[str]) -> Facts:
    """Look at every model, corpus and cache of the recipe; `InputError` where one is not as the recipe says.

    `named` are the caches that jobs read; those the recipe does not define are looked up in the lake. `read` are the
    files that jobs read beside them.
    """
    lake = Lake(opened.lake)
    files = {name: survey.survey(one).files for name, one in opened.corpora.items() if _used(opened, name)}
    caches = {
        name: _cache_facts(opened, lake, name, table, files[table.corpus])
        for name, table in opened.recipe.caches.items()
    }
    artifacts = lake.artifacts()
    continued = {table.get("kind") for table in expand(opened.recipe.jobs).values() if table.get("refit") == "continue"}
    return Facts(
        caches=caches,
        shared={name: _shared_facts(_shared(opened, lake, name)) for name in sorted(named - set(caches))},
        artifacts=frozenset(artifacts),
        candidates=tuple(lake.artifact(one).record for one in artifacts if one.rpartition("-")[0] in continued),
        digests={path: hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in sorted(read)},
    )


def model_source(table: ModelTable, base: str) -> str:
    """An absolute folder where there is one, else the hub id as it is."""
    folder = (Path(base) / Path(table.name).expanduser()).resolve()
    return str(folder) if folder.is_dir() or table.name.startswith((".", "/", "~")) else table.name


def _shared(opened: Opened, lake: Lake, name: str) -> Cache:
    try:
        return lake.cache(name)
    except InputError as error:
        raise InputError(
            f"a job names cache {name!r}, which the recipe does not define: "
            f"{suggestion(name, opened.recipe.caches)}; nor does the lake help: {error}"
        ) from error


def _used(opened: Opened, corpus: str) -> bool:
    return any(cache.corpus == corpus for cache in opened.recipe.caches.values())


def _cache_facts(
    opened: Opened, lake: Lake, alias: str, table: CacheTable, files: tuple[SourceFile, ...]
) -> CacheFacts:
    from workers import model as models

    where, corpus = f"caches.{alias}", opened.corpora[table.corpus]
    model = opened.recipe.models[table.model]
    source = model_source(model, opened.base)
    facts = models.inspect(source, model.revision)
    tokenisation = tokenisations.canonical(table, corpus, facts, where)
    sets, widths = sites.resolve(table, facts, tokenisation["kind"], where)
    identity = _identity(facts, model, corpus, tokenisation, table.dtype)
    record = make_record(f"{facts.name}.{name(corpus)}", identity, {"model": source, "revision": facts.revision})
    held = lake.find(record)
    files = changes.with_digests(files, held)
    changed = changes.changed(files, held, opened.recipe.schedule) if held else ()
    files = tuple(file for file in files if file.path not in changed)
    found = CacheFacts(
        record=held.record if held else record,
        folder=held.id if held else record.folder,
        widths=widths,
        segments=_segments(held) if held else (),
        n_claimed=held.n_claimed if held else 0,
        new_files=unseen(held, files) if held else files,
        gone=len(set(held.taken) - {file.path for file in files} - set(changed)) if held else 0,
        changed=changed,
        source=source,
        revision=facts.revision,
        tokenisation=tokenisation,
        sets=sets,
    )
    found = msgspec.structs.replace(found, memory=_memory(found, table, facts, opened.recipe.pool.batch_tokens))
    _check_tokeniser(found, where)
    if held:
        for one, tokens in sets.items():
            check(held.folder, one, tokens)
    return found


def _identity(
    facts: Any, model: ModelTable, corpus: Corpus, tokenisation: dict[str, Any], dtype: DtypeName
) -> CacheIdentity:
    """All that changes the numbers of the cache."""
    return CacheIdentity(
        model=ModelIdentity(
            name=facts.name, revision=facts.revision, weights=facts.weights, config=facts.config, dtype=model.dtype
        ),
        tokenizer=facts.tokenizer + facts.processor,
        corpus=msgspec.to_builtins(corpus),
        tokenisation=tokenisation,
        dtype=dtype,
    )


def _memory(facts: CacheFacts, table: CacheTable, model: Any, batch_tokens: int) -> Memory:
    """The bound over the segments that lack a site, and the one that new files will make."""
    head = model.vocabulary * model.width if facts.sets else 0
    size = logical(facts.record.identity.model.dtype).itemsize
    sized = Model(weights=(model.parameters + head) * size, width=model.width, widest=model.widest)
    part = largest_part(survey.parts(survey.CorpusFacts(files=facts.new_files)))
    lacking = [one for one in facts.segments if not set(facts.widths) <= set(one.sealed)]
    cuts = [(one.rows_per_unit, one.shard_bytes, one.compress, one.part) for one in lacking]
    cuts += [(table.unit, shard_bytes(table.shard), table.compress, part)] if facts.new_files or not cuts else []
    bounds = [
        of_harvest(_layouts(facts, table, unit, shard, compress), sized, batch_tokens, part)
        for unit, shard, compress, part in cuts
    ]
    return max(bounds, key=lambda bound: bound.total)


def _layouts(facts: CacheFacts, table: CacheTable, unit: int, shard: int, compress: Compress) -> list[Layout]:
    """How the sites of one unit lie."""
    sites = ((Site.parse(site), d) for site, d in facts.widths.items())
    return [layout(unit, d, stored_dtype(site, table.dtype), unit, shard, compress) for site, d in sites]


def _check_tokeniser(facts: CacheFacts, where: str) -> None:
    """Builds what tokenising tasks will build, if there will be any, so that what it lacks shows now."""
    from workers.tokens import Tokenisation, Tokeniser

    if not facts.new_files and all(segment.rows is not None for segment in facts.segments):
        return
    try:
        Tokeniser(facts.source, facts.revision or None, convert(facts.tokenisation, Tokenisation, where))
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _segments(cache: Cache) -> tuple[SegmentState, ...]:
    states = []
    for segment in cache.segments:
        planned, claimed = segment.planned, segment.claimed
        sites = segment.folder.names("done")
        states.append(
            SegmentState(
                number=segment.number,
                files=len(segment.claimed.files),
                rows=segment.plan.rows if planned else None,
                rows_per_unit=segment.plan.rows_per_unit if planned else segment.claimed.unit,
                units=segment.plan.n_units if planned else 0,
                done={site: len(segment.units_done(Site.parse(site))) for site in sites},
                sealed=tuple(str(site) for site in sorted(segment.sealed)),
                part=max(sum(claimed.files[n].size for n in part) for part in claimed.parts),
                shard_bytes=claimed.shard_bytes,
                compress=claimed.compress,
            )
        )
    return tuple(states)


def _shared_facts(cache: Cache) -> CacheFacts:
    return CacheFacts(
        record=cache.record,
        folder=cache.id,
        widths={str(site): cache.site(site).d for site in cache.sites},
        segments=_segments(cache),
        n_claimed=cache.n_claimed,
        new_files=(),
        gone=0,
        source=cache.record.made.get("model", ""),
        revision=cache.record.identity.model.revision,
        tokenisation=cache.record.identity.tokenisation,
    )
