"""What a lake holds, for people: `garner ls` and `garner show`. Needs neither torch nor ray."""

from collections.abc import Iterator

from storage.artifact import Artifact
from storage.cache import Cache
from storage.errors import InputError, RunError
from storage.lake import Lake
from storage.moments import Moments


def listing(url: str) -> Iterator[str]:
    """A line per cache, then a line per artifact."""
    lake = Lake(url)
    caches, artifacts = lake.caches(), lake.artifacts()
    if not caches and not artifacts:
        raise InputError(f"lake {lake.folder} holds no cache and no artifact; is the URL right?")
    for name in caches:
        yield f"cache     {name:<44} {_summary(lake, name)}"
    for name in artifacts:
        yield f"artifact  {name:<44} {_headline(lake, name)}"


def _headline(lake: Lake, name: str) -> str:
    try:
        return str(lake.artifact(name).record.report["headline"])
    except RunError as error:
        return str(error)


def _summary(lake: Lake, name: str) -> str:
    """Rows, type and sites of a cache; one that is damaged does not keep the others from being listed."""
    try:
        cache = lake.cache(name)
        rows = f"{cache.n_rows:,} rows" if cache.sites else "nothing sealed yet"
    except RunError as error:
        return str(error)
    return f"{rows:<18} {cache.record.identity.dtype:<9} {' '.join(map(str, cache.sites))}"


def shown(url: str, name: str) -> Iterator[str]:
    """All there is to say of one cache or artifact."""
    lake = Lake(url)
    if name in lake.artifacts():
        return _artifact_lines(lake.artifact(name))
    return _cache_lines(lake.cache(name))


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
        yield f"  from     {one.cache} ({one.segments} segments), called {name}"
    for metric in record.report["metrics"]:
        null = "" if metric.get("null") is None else f"   null {metric['null']:.4g}"
        yield f"  {metric['name']:<40} {metric['value']:.4g}{null}"
    for file in record.files:
        yield f"  file     {file.name:<30} {file.size:,} bytes"
