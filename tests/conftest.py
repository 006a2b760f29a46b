"""Real small things for every test: sealed caches in memory, and jobs run into real artifacts."""

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from storage import Artifact, Cache, Lake, Site
from storage.artifact import ArtifactWriter, Record, versions
from storage.cache import create
from storage.dtype import encode, logical
from storage.layout import shard_bytes
from storage.manifest import CacheIdentity, Claim, Mark, ModelIdentity, SourceFile, make_record
from storage.moments import merge
from storage.segment import part_name
from storage.shard import empty_rows, write
from storage.tokens import Span, write_part
from tests.pairs import pairs  # noqa: F401  fixture for all
from tests.s3.fixtures import bucket, hasty, proxy, s3_server  # noqa: F401  fixtures for all
from workers.ray_environment import decide

os.environ.setdefault("RAY_memory_monitor_refresh_ms", "0")  # a busy neighbour must not get our actors killed
decide("local")  # before any test imports Ray, which reads it once and for all

_numbers = itertools.count()


@dataclass(frozen=True)
class Doc:
    """A document whose tokens are its words; every word is one row."""

    text: str
    labels: Mapping[str, object] = field(default_factory=dict)
    key: str = ""


def spans_of(documents: Sequence[Doc]) -> list[Span]:
    vocabulary = {word: n for n, word in enumerate(sorted({w for doc in documents for w in doc.text.split()}))}
    spans = []
    for number, doc in enumerate(documents):
        words = doc.text.split()
        ends = np.cumsum([len(word) + 1 for word in words], dtype=np.int32) - 1
        begins = ends - np.array([len(word) for word in words], dtype=np.int32)
        ids = np.array([vocabulary[word] for word in words], dtype=np.int32)
        spans.append(
            Span(number, number, doc.key or f"doc:{number}", ids, begins, ends, " ".join(words), 0, doc.labels, None)
        )
    return spans


def build_cache(lake, sites, segments, dtype="float32", name="tiny.words", unit=256, compress="none"):
    """A sealed cache: `segments` lists documents, and `sites` gives each site's rows over all of them."""
    model = ModelIdentity(name=name, revision="", weights=str(next(_numbers)), config="", dtype="float32")
    identity = CacheIdentity(model=model, tokenizer="", corpus={"files": name}, tokenisation={}, dtype=dtype)
    record = make_record(name, identity, {})
    cache = create(lake.folder / "caches" / record.folder, record)
    first = 0
    for documents in segments:
        segment = cache.next_segment()
        segment.claim(
            Claim(
                files=(SourceFile(path=f"{segment.number}.txt", size=1),),
                parts=((0,),),
                unit=unit,
                shard_bytes=shard_bytes(),
                compress=compress,
            )
        )
        write_part(segment.folder, part_name(0), spans_of(documents))
        plan = segment.fix()
        for site, x_ND in sites.items():
            write_site(
                segment, Site.parse(site), np.asarray(x_ND)[first : first + plan.rows].astype(logical(dtype)), dtype
            )
        first += plan.rows
        cache = Cache(cache.folder)
    return cache


def write_site(segment, site, x_ND, dtype):
    shape = segment.layout(x_ND.shape[1], dtype)
    segment.create_array(site, shape)
    for unit in range(segment.plan.n_units):
        written = []
        for shard in shape.shards_within(*segment.plan.unit_range(unit)):
            a, b = shape.shard_range(shard)
            rows = empty_rows(shape, shard)
            rows[: b - a] = encode(dtype, np.ascontiguousarray(x_ND[a:b]))
            written.append(write(segment.array(site), shape, shard, rows))
        shards, moments = tuple(s for s, _ in written), merge(m for _, m in written)
        rows = moments.count + moments.nonfinite
        mark = Mark(unit=unit, rows=rows, attempt="a", worker="w", seconds=0.0, moments=moments, shards=shards)
        segment.mark(site, mark)
    segment.seal(site, shape)


@pytest.fixture(autouse=True, scope="module")
def _forget_memory():
    """What a module left in memory goes with it: fsspec looks through all that is there to list any of it."""
    yield
    MemoryFileSystem.store.clear()


@pytest.fixture
def lake() -> Lake:
    """An empty lake of its own."""
    return Lake(f"memory://lake-{next(_numbers)}")


@pytest.fixture
def make_cache(lake):
    """`make_cache(sites={"resid.0": x_ND}, documents=[Doc(...), ...])`: a sealed cache in a `memory://` lake."""

    def make(sites: Mapping[str, np.ndarray], documents: Sequence[Doc], dtype="float32", name="tiny.words") -> Cache:
        return build_cache(lake, sites, [documents], dtype=dtype, name=name)

    return make


@pytest.fixture
def run_job(lake):
    """`run_job(module, config, caches={"name": cache})`: the job's report and the artifact it left.

    `artifacts` are those of other jobs, by their names in the recipe; `models` live ones, by the names of caches.
    """
    import msgspec

    from jobs.core.context import Context

    def run(module, config, caches: Mapping[str, Cache], artifacts=None, models=None):
        folder = lake.artifact_folder(f"job-{next(_numbers)}")
        writer = ArtifactWriter(folder)
        ctx = Context(
            caches,
            writer,
            "cpu",
            open_model=(models or {}).__getitem__,
            open_artifact=(artifacts or {}).__getitem__,
        )
        report = module.run(config, ctx)
        record = Record(
            kind=module.__name__.rpartition(".")[2],
            id=folder.name,
            config=msgspec.to_builtins(config, enc_hook=str),
            inputs={},
            report=msgspec.to_builtins(report),
            files=writer.files,
            versions=versions(),
            seconds=0.0,
        )
        writer.close(record)
        return report, Artifact(folder)

    return run


@pytest.fixture(scope="session")
def local_ray():
    """A Ray of this process's own, for all tests that want one."""
    import ray

    from workers.ray_pool import start

    start("local")
    yield
    ray.shutdown()
