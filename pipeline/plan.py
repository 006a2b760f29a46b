"""The plan: from a recipe and the facts to the steps that are left. Pure: no reading, no writing, no clock."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import msgspec

import jobs
from jobs.core.context import Read
from pipeline import series
from pipeline.facts import CacheFacts, Facts, SegmentState
from pipeline.order import waves
from pipeline.recipe import Opened, expand
from pipeline.schedule import check_limits
from storage.advice import suggestion
from storage.artifact import Input
from storage.errors import InputError
from storage.value import Value, convert

_BYTES_PER_TOKEN = 4
"""Of English text, roughly; used only to say how large a corpus will be before its tokens are counted."""


class Study(Value):
    """One job of a recipe, decoded."""

    name: str
    kind: str
    config: Any
    """The job module's own `Config`."""
    reads: tuple[Read, ...]
    refit: jobs.Refit = "all"
    """What it sees when its caches have grown."""
    models: tuple[str, ...] = ()
    """Caches, of those it reads, whose models it runs."""
    files: tuple[str, ...] = ()
    """What it reads beside caches, whose contents are part of its artifact's address."""
    artifacts: tuple[str, ...] = ()
    """What it stands on: other jobs of the recipe, or finished artifacts of the lake by their folders' names."""


class CacheStep(Value):
    """Harvest what a cache lacks."""

    name: str
    """In the recipe."""
    facts: CacheFacts
    lacking: dict[str, int]
    """For every site, the units that known segments lack."""
    done: bool

    @property
    def rows(self) -> int:
        """Rows of the segments whose tokens are indexed."""
        return sum(segment.rows or 0 for segment in self.facts.segments)

    @property
    def estimate(self) -> int:
        """Rows that new files may add, roughly."""
        return sum(file.size for file in self.facts.new_files) // _BYTES_PER_TOKEN


class JobStep(Value):
    """Run a study that has no artifact yet."""

    name: str
    kind: str
    config: Any
    inputs: dict[str, Input]
    artifact: str
    """Folder name of its artifact."""
    done: bool
    previous: str = ""
    """The artifact that it goes on from, if any."""
    models: dict[str, str] = {}
    """Of the caches whose models it runs: where that model is read."""
    artifacts: dict[str, str] = {}
    """Folder names of the artifacts that it stands on, by the names that its configuration has for them."""


Step = CacheStep | JobStep


def studies(opened: Opened) -> tuple[Study, ...]:
    """The recipe's jobs, each decoded by its own module; errors carry the table's name."""
    tables = expand(opened.recipe.jobs)
    if opened.recipe.schedule is not None:
        check_limits(opened.recipe.schedule, tables)
    return tuple(_study(name, table) for name, table in tables.items())


def plan(opened: Opened, work: tuple[Study, ...], facts: Facts) -> tuple[Step, ...]:
    """Every step in the order in which it can run, done or not."""
    caches = tuple(_cache_step(name, one) for name, one in facts.caches.items())
    named = {study.name: study for study in work}
    for study in work:
        _check_stands(study, named, facts)
    made: dict[str, JobStep] = {}
    for wave in waves({study.name: study.artifacts for study in work}):
        made |= {name: _job_step(named[name], facts, made) for name in wave}
    return (*caches, *made.values())


def _study(name: str, table: Mapping[str, Any]) -> Study:
    where = f"jobs.{name}"
    if "kind" not in table:
        raise InputError(f"{where} has no kind; add one of {', '.join(jobs.names())}")
    if table["kind"] not in jobs.names():
        raise InputError(
            f"{where}.kind = {table['kind']!r} is no kind of job: {suggestion(str(table['kind']), jobs.names())}"
        )
    module = jobs.load(table["kind"])
    config = convert({key: value for key, value in table.items() if key not in ("kind", "refit")}, module.Config, where)
    reads = module.reads(config)
    return Study(
        name=name,
        kind=table["kind"],
        config=config,
        reads=reads,
        refit=_refit(table, module, reads, where),
        models=_models(module, config, reads, where),
        files=tuple(map(str, module.files(config))) if hasattr(module, "files") else (),
        artifacts=tuple(dict.fromkeys(module.artifacts(config))) if hasattr(module, "artifacts") else (),
    )


def _models(module: jobs.Job, config: Any, reads: Sequence[Read], where: str) -> tuple[str, ...]:
    """The caches whose models a job runs; of those it reads, for an artifact's address is made of what it reads."""
    named: tuple[str, ...] = module.models(config) if hasattr(module, "models") else ()
    known = tuple(dict.fromkeys(read.cache for read in reads))
    for name in named:
        if name not in known:
            raise InputError(
                f"{where} wants the model that made cache {name!r}, and reads the caches {', '.join(known)}: "
                "name one of these"
            )
    return named


def _refit(table: Mapping[str, Any], module: jobs.Job, reads: Sequence[Read], where: str) -> jobs.Refit:
    """What the table asks for, once it is known that the job can do it."""
    asked, can = table.get("refit", "all"), jobs.refits(module)
    if asked not in can:
        raise InputError(f"{where}.refit = {asked!r}: a job of kind {table['kind']!r} takes one of {', '.join(can)}")
    if asked == "continue" and len({read.cache for read in reads}) != 1:
        raise InputError(f"{where}.refit = 'continue' wants a job of one cache: use 'all' or 'newest'")
    return cast(jobs.Refit, asked)


def _cache_step(name: str, facts: CacheFacts) -> CacheStep:
    lacking = {site: sum(_lacking(segment, site) for segment in facts.segments) for site in facts.widths}
    sealed = all(site in segment.sealed for segment in facts.segments for site in facts.widths)
    return CacheStep(
        name=name, facts=facts, lacking=lacking, done=bool(sealed and facts.segments and not facts.new_files)
    )


def _lacking(segment: SegmentState, site: str) -> int:
    """Units of a segment still to be harvested; one whose tokens are not indexed has none yet."""
    if segment.rows is None or site in segment.sealed:
        return 0
    return segment.units - segment.done.get(site, 0)


def _job_step(study: Study, facts: Facts, made: Mapping[str, JobStep]) -> JobStep:
    """`made` are the jobs that run before."""
    known = {**facts.caches, **facts.shared}
    for read in study.reads:
        _check_read(study, read, known[read.cache])
    inputs = {read.cache: _input(read, study, known[read.cache]) for read in study.reads}
    artifacts = {name: made[name].artifact if name in made else name for name in study.artifacts}
    config = msgspec.to_builtins(study.config, enc_hook=str)
    previous = series.last(study.kind, config, inputs, facts.candidates) if study.refit == "continue" else None
    if previous is not None:
        (name,), (seen,) = inputs, previous.inputs.values()
        if seen.segments == inputs[name].segments:  # it has seen everything
            return _made(study, {name: seen}, previous.previous, facts, artifacts)
        first = max(seen.segments, inputs[name].first)
        inputs = {name: msgspec.structs.replace(inputs[name], first=first)}
    return _made(study, inputs, series.folder(previous) if previous else "", facts, artifacts)


def _check_stands(study: Study, work: Mapping[str, Study], facts: Facts) -> None:
    for name in study.artifacts:
        if name not in work and name not in facts.artifacts:
            raise InputError(
                f"jobs.{study.name} stands on {name!r}, which is no job of the recipe, nor a finished artifact of the "
                f"lake: {suggestion(name, work)}"
            )


def _made(study: Study, inputs: dict[str, Input], previous: str, facts: Facts, artifacts: dict[str, str]) -> JobStep:
    config = msgspec.to_builtins(study.config, enc_hook=str)
    digests = tuple(facts.digests[path] for path in study.files)
    address = series.artifact_id(study.kind, config, inputs, study.refit, previous, digests, artifacts)
    artifact = f"{study.kind}-{address}"
    return JobStep(
        name=study.name,
        kind=study.kind,
        config=study.config,
        inputs=inputs,
        artifact=artifact,
        done=artifact in facts.artifacts,
        previous=previous,
        models={name: (facts.caches | facts.shared)[name].source for name in study.models},
        artifacts=artifacts,
    )


def _input(read: Read, study: Study, facts: CacheFacts) -> Input:
    """What the job will see of the cache; the sites of several reads of one cache are joined."""
    reads = [one for one in study.reads if one.cache == read.cache]
    named = {str(site) for one in reads for site in one.sites}
    every = not all(one.sites for one in reads)
    sites = tuple(site for site in facts.widths if every or site in named)
    first, stop = window_to_be(facts)
    if study.refit == "newest":
        first = max(first, stop - 1)
    return Input(cache=facts.folder, first=first, segments=stop, sites=sites)


def window_to_be(facts: CacheFacts) -> tuple[int, int]:
    """Numbers [first, stop) of the segments that the cache will show when the recipe has run."""
    stop = facts.n_claimed + bool(facts.new_files)
    return min((segment.number for segment in facts.segments), default=facts.n_claimed), stop


def _check_read(study: Study, read: Read, facts: CacheFacts) -> None:
    for site in read.sites:
        if str(site) not in facts.widths:
            raise InputError(
                f"cache {read.cache!r} holds sites {', '.join(facts.widths)}; job {study.name!r} asks for {site}: "
                f"add it to [caches.{read.cache}] and run again"
            )
