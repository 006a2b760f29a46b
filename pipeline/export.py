"""`garner export`: a cache as a plain folder for people without garner. Arrays, tokens, a page and checksums.

Segments become one: an array for each site, and tokens numbered over all rows. The page and the checksums come last.
R: rows of a shard, W: entries of a stored row.
"""

import hashlib
import io
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from pipeline.lineage import cache_origins
from pipeline.progress import Progress
from pipeline.sizes import written
from storage.artifact import VERSION
from storage.cache import Cache
from storage.copying import each
from storage.errors import InputError
from storage.lake import Lake
from storage.layout import Layout
from storage.reader import Activations
from storage.segment import Segment, array_metadata, group_metadata
from storage.sets import read as read_set
from storage.shard import empty_rows, key, write
from storage.site import Site
from storage.tokens import joined, read_part
from storage.url import Folder
from storage.value import canonical

if TYPE_CHECKING:
    import pyarrow as pa


class Export:
    """A folder being written; keeps the checksum of each of its files, taken from what can be read there."""

    def __init__(self, folder: Folder) -> None:
        if folder.names():
            raise InputError(f"{folder} is not empty: name a new folder, or empty it first")
        self.folder = folder
        self.sums: dict[str, str] = {}
        self.bytes = 0

    def write(self, name: str, data: bytes) -> None:
        """Create one file."""
        self.folder.create(name, data)
        self.note(name)

    def note(self, name: str) -> None:
        """Take the checksum of a file that is there."""
        data = self.folder.read(name)
        self.sums[name] = hashlib.sha256(data).hexdigest()
        self.bytes += len(data)


def exported(url: str, name: str, folder: str, sites: Sequence[str], progress: Progress) -> Iterator[str]:
    """Write the cache into `folder`; says what is there then."""
    cache = Lake(url).cache(name)
    view = _view(cache, [Site.parse(site) for site in sites] or list(cache.sites))
    out = Export(Folder.at(folder))
    layouts = {site: _layout(view, site) for site in view.sites}
    meter = progress.meter(f"export {cache.id}", sum(one.n_shards for one in layouts.values()), "shards")
    _write_tokens(out, view.segments)
    out.write("sites/zarr.json", group_metadata())
    for site, shape in layouts.items():
        _write_site(out, site, view.site(site), shape)
        meter.advance(shape.n_shards)
        if site.kind == "logits":
            out.write(f"sets/{site.path}.json", canonical(read_set(cache.folder, site.path)))
    out.write("origins.json", canonical(cache_origins(view)))
    out.write("README.md", _page(view, layouts, url).encode())
    sums = "".join(f"{digest}  {name}\n" for name, digest in sorted(out.sums.items()))
    out.folder.create("SHA256SUMS", sums.encode())
    meter.close()
    yield f"{len(out.sums) + 1} files, {written(out.bytes)}, in {out.folder}: begin with README.md"
    if len(view.segments) < len(cache.segments):
        yield f"left out: segments from {view.segments[-1].number + 1} on, in which not all of these sites are sealed"


def _view(cache: Cache, sites: Sequence[Site]) -> Cache:
    """The leading segments in which all these sites can be read."""
    if not sites:
        raise InputError(f"cache {cache.id} has no sealed site yet: run its recipe to the end")
    for site in sites:
        cache.site(site)  # says which there are, if this one is not
    shown = cache.segments[: min(len(cache.sealed_segments(site)) for site in sites)]
    return cache.restricted(shown[0].number, shown[-1].number + 1, sites)


def _layout(view: Cache, site: Site) -> Layout:
    """One array of all rows, cut as the first segment is."""
    first = view.segments[0].read_seal(site).layout
    return msgspec.structs.replace(first, rows=view.site(site).shape[0])


def _write_site(out: Export, site: Site, acts: Activations, shape: Layout) -> None:
    """Shards of all rows; every row is checked as it is read."""
    name = f"sites/{site}"
    out.write(f"{name}/zarr.json", array_metadata(shape))

    def one(shard: int) -> None:
        first, stop = shape.shard_range(shard)
        x_RW = empty_rows(shape, shard)
        acts.fill([(first, stop)], x_RW[: stop - first])
        write(out.folder / name, shape, shard, x_RW)
        out.note(f"{name}/{key(shard)}")

    each(one, range(shape.n_shards))


def _write_tokens(out: Export, segments: Sequence[Segment]) -> None:
    """The token parts, numbered over all segments, with one schema."""
    import pyarrow.parquet as pq

    every = joined([table.schema.empty_table() for table in _tables(segments)])
    for number, table in enumerate(_tables(segments)):
        sink = io.BytesIO()
        pq.write_table(joined([every, table]).replace_schema_metadata(), sink, compression="zstd")
        out.write(f"tokens/part-{number:05d}.parquet", sink.getvalue())


def _tables(segments: Sequence[Segment]) -> "Iterator[pa.Table]":
    """The tokens part by part; `sequence`, `document` and `start` count over all of them."""
    import pyarrow.compute as pc

    bases = {"sequence": 0, "document": 0, "start": 0}
    for segment in segments:
        for part in segment.plan.parts:
            firsts = {"sequence": part.first_sequence, "document": part.first_document, "start": part.first_row}
            table = read_part(segment.folder, part)
            for at, column in enumerate(table.column_names):
                if column in bases:
                    table = table.set_column(at, column, pc.add(table[column], bases[column] + firsts[column]))
            if part.documents:
                yield table
        plan = segment.plan
        counts = {"sequence": plan.sequences, "document": plan.documents, "start": plan.rows}
        bases = {column: base + counts[column] for column, base in bases.items()}


def _page(view: Cache, layouts: dict[Site, Layout], lake: str) -> str:
    """README.md."""
    from jinja2 import Environment, PackageLoader

    environment = Environment(loader=PackageLoader("pipeline", "."), autoescape=False, keep_trailing_newline=True)
    environment.filters["cell"] = lambda value: str(value).replace("|", "\\|").replace("\n", " ")
    what = view.record.identity
    return environment.get_template("export.md.jinja").render(
        name=view.id,
        version=VERSION,
        model=what.model,
        tokenizer=what.tokenizer,
        corpus=what.corpus,
        corpus_name=view.record.name.removeprefix(f"{what.model.name}."),
        tokenisation=what.tokenisation,
        made=view.record.made,
        lake=lake,
        rows=view.n_rows,
        sites=[_site_facts(site, view.site(site), shape) for site, shape in layouts.items()],
        segments=[_segment_facts(segment) for segment in view.segments],
    )


def _site_facts(site: Site, acts: Activations, shape: Layout) -> dict[str, Any]:
    moments = acts.moments
    return {
        "name": str(site),
        "rows": shape.rows,
        "d": shape.d,
        "dtype": str(acts.dtype),
        "kept": {"bfloat16": "uint16 bits", "int8": "int8 codes and scales"}.get(shape.dtype, shape.dtype),
        "norms": ", ".join(f"{moments.norms.quantile(q):.4g}" for q in (0.01, 0.5, 0.99)),
        "largest": f"{moments.max_abs:.4g}",
        "nonfinite": moments.nonfinite,
    }


def _segment_facts(segment: Segment) -> dict[str, Any]:
    plan = segment.plan
    return {
        "number": segment.number,
        "files": len(plan.files),
        "bytes": sum(file.size for file in plan.files),
        "rows": plan.rows,
        "documents": plan.documents,
    }
