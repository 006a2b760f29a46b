"""All there is to say of one cache or artifact, what it came from and what stands on it: `garner show`."""

from collections.abc import Iterator
from typing import Any

import msgspec

from pipeline.catalogue import of_cache
from pipeline.lineage import Node, artifact_origins, cache_origins, on_artifact, on_cache, records, tree
from storage.artifact import Artifact
from storage.cache import Cache
from storage.lake import Lake
from storage.moments import Moments
from storage.value import canonical


def shown(url: str, name: str, as_json: bool = False) -> Iterator[str]:
    """Lines for people, or one JSON object."""
    lake = Lake(url)
    there = records(lake)
    if name in lake.artifacts():
        artifact = lake.artifact(name)
        lineage = artifact_origins(lake, artifact.record), on_artifact(name, there)
        facts, lines = _artifact_facts(artifact), _artifact_lines(artifact)
    else:
        cache = lake.cache(name)
        lineage = cache_origins(cache), on_cache(cache.id, there)
        facts, lines = _cache_facts(cache), _cache_lines(cache)
    if as_json:
        yield canonical(facts | {"origins": lineage[0], "stands_on_it": lineage[1]}).decode()
    else:
        yield from lines
        yield from _lineage_lines(*lineage)


def _lineage_lines(origins: tuple[Node, ...], standing: tuple[Node, ...]) -> Iterator[str]:
    yield "  came from"
    yield from tree(origins)
    yield "  stands on it" if standing else "  nothing stands on it"
    yield from tree(standing)


def _cache_facts(cache: Cache) -> dict[str, Any]:
    entry: dict[str, Any] = msgspec.to_builtins(of_cache(cache))
    acts = {str(site): cache.site(site) for site in cache.sites}
    shapes = {site: {"rows": one.shape[0], "d": one.d, "dtype": str(one.dtype)} for site, one in acts.items()}
    return entry | {"at": str(cache.folder), "identity": cache.record.identity, "sites": shapes}


def _artifact_facts(artifact: Artifact) -> dict[str, Any]:
    return {"name": artifact.folder.name, "at": str(artifact.folder), "record": artifact.record}


def _cache_lines(cache: Cache) -> Iterator[str]:
    what = cache.record.identity
    yield f"cache {cache.id}"
    yield f"  at            {cache.folder}"
    model = what.model
    yield f"  model         {model.name} {model.revision} in {model.dtype}, weights {model.weights[:12]}"
    yield f"  corpus        {' '.join(f'{key}={value}' for key, value in what.corpus.items() if value)}"
    yield f"  tokenisation  {' '.join(f'{key}={value}' for key, value in what.tokenisation.items())}"
    for segment in cache.segments:
        if segment.planned:
            yield (
                f"  segment {segment.number:<5} {segment.plan.rows:,} rows, {segment.plan.documents:,} documents, "
                f"{len(segment.plan.files)} files; sealed: {' '.join(map(str, sorted(segment.sealed))) or 'nothing'}"
            )
    for site in cache.sites:
        acts = cache.site(site)
        moments, size = acts.moments, acts.shape[0] * acts.row_bytes
        shape = f"{acts.shape[0]:,} x {acts.d} {acts.dtype}, {size / 2**20:,.1f} MiB"
        yield f"  {site!s:<13} {shape}; {_statistics(moments)}"


def _statistics(moments: Moments) -> str:
    """What was recorded while harvesting; nothing is read for it."""
    low, middle, high = (moments.norms.quantile(q) for q in (0.01, 0.5, 0.99))
    rounded = f"; int8 took {moments.unexplained:.2g} of the variance" if moments.rounding else ""
    nonfinite = f"; {moments.nonfinite:,} rows not finite" if moments.nonfinite else ""
    return f"norms {low:.4g} to {high:.4g}, median {middle:.4g}; max |x| {moments.max_abs:.4g}{rounded}{nonfinite}"


def _artifact_lines(artifact: Artifact) -> Iterator[str]:
    record = artifact.record
    yield f"artifact {artifact.folder.name}"
    yield f"  at       {artifact.folder}"
    yield f"  says     {record.report['headline']}"
    for name, one in record.inputs.items():
        yield f"  from     {one.cache}, segments {one.first} to {one.segments - 1}, called {name}"
    for name, other in record.artifacts.items():
        yield f"  from     {other}, called {name}"
    for metric in record.report["metrics"]:
        null = "" if metric.get("null") is None else f"   null {metric['null']:.4g}"
        value = "undefined" if metric["value"] is None else f"{metric['value']:.4g}"  # JSON has no NaN
        yield f"  {metric['name']:<40} {value}{null}"
    for file in record.files:
        yield f"  file     {file.name:<30} {file.size:,} bytes"
