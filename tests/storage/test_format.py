"""docs/format.md is true: its example reads our caches with zarr and pyarrow alone, and records are as it says."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import google_crc32c
import ml_dtypes
import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.progress import Progress
from pipeline.run import run
from storage import Lake
from tests.pipeline.tiny import TEXTS, read, save_decoder, write_lines

SELECTED = {"kind": "packed", "select": {"kind": "every", "n": 2}}
PAGE = Path(__file__).parent.parent.parent / "docs" / "format.md"
STRANGER = """
import json, runpy, sys

class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("storage", "pipeline", "workers", "jobs"):
            raise ImportError(f"{name} is not to be had here")

sys.meta_path.insert(0, Nothing())
try:
    import storage
except ImportError:
    pass
else:
    raise SystemExit("our code can be imported: this would prove nothing")

import numpy as np

sys.argv = sys.argv[1:]
read = runpy.run_path(sys.argv[0])
np.save("rows.npy", read["x_ND"])
with open("spans.json", "w") as file:
    json.dump(read["spans"], file)
assert not {"storage", "pipeline", "workers", "jobs"} & set(sys.modules)
"""


def example():
    """The one Python block of the page."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return code


@pytest.fixture(scope="module")
def caches(tmp_path_factory):
    """Three caches of two segments, several shards and several inner chunks to a shard: by cut, by type, by rows."""
    base = tmp_path_factory.mktemp("format")
    save_decoder(base / "model")
    recipe = {
        "lake": "lake",
        "models": {"model": {"name": "model"}},
        "corpora": {"docs": {"files": "docs/*.jsonl", "labels": ["number", "even"]}},
        "caches": {
            "documents": {"model": "model", "corpus": "docs", "sites": ["resid.1"], "dtype": "float32"},
            "packed": {"model": "model", "corpus": "docs", "sites": ["resid.1"], "tokenise": {"kind": "packed"}},
            "selected": {"model": "model", "corpus": "docs", "sites": ["resid.1"], "tokenise": SELECTED},
            "rounded": {"model": "model", "corpus": "docs", "sites": ["resid.1"], "dtype": "int8"},
            "compressed": {"model": "model", "corpus": "docs", "sites": ["resid.1"], "dtype": "float16"},
        },
        "pool": {"kind": "local"},
    }
    for cache in recipe["caches"].values():
        cache |= {"context": 16, "unit": 128}
    recipe["caches"]["compressed"]["compress"] = "zstd"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("storage.layout.CHUNK_BYTES", 2**11)
        for first, name in ((0, "a"), (100, "b")):
            lines = [{"text": text, "number": first + n, "even": n % 2 == 0} for n, text in enumerate(TEXTS)]
            write_lines(base / "docs" / f"{name}.jsonl", lines)
            run(read(recipe, base), Progress(live=False))
    lake = Lake(str(base / "lake"))
    made = {named(cache): cache for cache in map(lake.cache, lake.caches())}
    assert set(made) == set(recipe["caches"])
    return made


def named(cache):
    """What the recipe calls the cache."""
    if cache.record.identity.dtype in ("int8", "float16"):
        return "rounded" if cache.record.identity.dtype == "int8" else "compressed"
    tokenisation = cache.record.identity.tokenisation
    return "selected" if "select" in tokenisation else tokenisation["kind"]


@pytest.fixture(params=["documents", "packed", "selected", "rounded", "compressed"])
def cache(caches, request):
    return caches[request.param]


def test_the_example_reads_rows_tokens_texts_and_labels_where_garner_cannot_be_imported(cache, tmp_path):
    (tmp_path / "example.py").write_text(example())
    (tmp_path / "stranger.py").write_text(STRANGER)
    told = subprocess.run(
        [sys.executable, "-I", "stranger.py", "example.py", cache.folder.url, "resid.1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    x_ND, spans = np.load(tmp_path / "rows.npy"), json.loads((tmp_path / "spans.json").read_text())
    acts, tokens = cache.site("resid.1"), cache.tokens
    assert told.stdout == f"{acts.shape[0]} rows of width {acts.d}, {len(spans)} spans, {2 * len(TEXTS)} documents\n"
    assert x_ND.dtype == (np.float16 if named(cache) == "compressed" else np.float32)
    np.testing.assert_array_equal(x_ND, acts[:].astype(np.float32))
    said = [
        (
            span["start"] + n,
            span["sequence"],
            span["document"],
            span["key"],
            span["input_ids"][at],
            span["text"][span["begin"][at] - span["text_begin"] : span["end"][at] - span["text_begin"]],
            span["number"],
            span["even"],
        )
        for span in spans
        for n, at in enumerate(range(span["length"]) if span["rows"] is None else span["rows"])
    ]
    every = np.arange(cache.n_rows)
    documents = tokens.documents(every)
    assert said == list(
        zip(
            every.tolist(),
            tokens.sequences(every).tolist(),
            documents.tolist(),
            tokens.document_ids[documents].tolist(),
            tokens.ids(every).tolist(),
            tokens.strings(every),
            tokens.label("number")[documents].tolist(),
            tokens.label("even")[documents].tolist(),
            strict=True,
        )
    )
    assert {span["number"] for span in spans} == {*range(len(TEXTS)), *range(100, 100 + len(TEXTS))}
    assert all(span["length"] == len(span["input_ids"] if span["rows"] is None else span["rows"]) for span in spans)
    without = {"a.jsonl:1", "a.jsonl:6", "b.jsonl:1", "b.jsonl:6"}
    assert {span["key"] for span in spans if not span["input_ids"]} == (
        set() if named(cache) in ("packed", "selected") else without
    )


def test_the_caches_of_this_file_are_as_awkward_as_they_should_be(caches):
    for cache in caches.values():
        assert len(cache.segments) == 2
        for segment in cache.segments:
            seal = segment.read_seal(cache.sites[0])
            assert len(seal.shards) > 3
            assert seal.layout.rows_per_shard > seal.layout.rows_per_chunk
            assert segment.plan.rows % seal.layout.rows_per_chunk
    several = pq.read_table(caches["packed"].folder.local / "segments/00000/tokens/part-00000.parquet")["sequence"]
    assert len(set(several.to_pylist())) < len(several)


def test_the_id_is_the_hash_of_the_identity_as_it_stands_in_the_record(cache):
    record = json.loads(cache.folder.read("cache.json"))
    text = json.dumps(record["identity"], separators=(",", ":"), ensure_ascii=False)
    assert text.encode() in cache.folder.read("cache.json")
    assert hashlib.sha256(text.encode()).hexdigest()[:12] == record["id"]
    assert cache.folder.name == f"{record['name']}-{record['id']}"


@pytest.mark.parametrize("cache", ["documents", "packed", "selected"], indirect=True)
def test_a_shard_is_raw_rows_with_the_checksums_of_its_seal(cache):
    first = 0
    dtype = np.dtype(getattr(ml_dtypes, cache.record.identity.dtype, cache.record.identity.dtype))
    for segment in sorted((cache.folder.local / "segments").iterdir()):
        seal = json.loads((segment / "sealed" / "resid.1.json").read_text())
        layout = seal["layout"]
        for shard in seal["shards"]:
            data = (segment / "sites" / "resid.1" / f"c.{shard['shard']}.0").read_bytes()
            assert len(data) == shard["size"]
            size = layout["rows_per_chunk"] * layout["d"] * dtype.itemsize
            chunks = [google_crc32c.value(data[at * size : (at + 1) * size]) for at in range(len(shard["chunks"]))]
            assert chunks == shard["chunks"]
            rows = min(layout["rows_per_shard"], layout["rows"] - shard["shard"] * layout["rows_per_shard"])
            x_RD = np.frombuffer(data, dtype, rows * layout["d"]).reshape(rows, -1)
            np.testing.assert_array_equal(x_RD, cache.site("resid.1")[first : first + rows])
            first += rows
    assert first == cache.n_rows


RECORDS = (
    "cache.json",
    "segments/00000/files.json",
    "segments/00000/plan.json",
    "segments/00000/done/resid.1/00000.json",
    "segments/00000/sealed/resid.1.json",
    "segments/00000/sites/resid.1/zarr.json",
)


def keys(value):
    """Every key in a JSON value, but not those of the open tables `corpus` and `tokenisation`."""
    if isinstance(value, list):
        return set().union(*map(keys, value))
    if not isinstance(value, dict):
        return set()
    return set(value).union(*(keys(inner) for name, inner in value.items() if name not in ("corpus", "made")))


@pytest.mark.parametrize("name", RECORDS)
def test_every_field_of_every_record_is_on_the_page(name, cache):
    words = set(re.findall(r"\w+", PAGE.read_text()))
    if name.endswith("zarr.json"):
        words |= {"shape", "configuration", "name", "endian", "chunk_shape", "index_codecs", "index_location"}
        words |= {"separator", "zarr_format", "node_type", "storage_transformers", "level", "checksum"}  # Zarr's own
    assert keys(json.loads(cache.folder.read(name))) - {"special"} <= words


def test_every_column_of_the_tokens_is_on_the_page(cache):
    columns = set(pq.read_schema(cache.folder.local / "segments/00000/tokens/part-00000.parquet").names)
    page = PAGE.read_text()
    assert all(f"`{column}`" in page for column in columns - {"number", "even"})


def test_every_object_of_a_cache_is_on_the_page(cache):
    patterns = [
        r"cache\.json",
        r"segments/\d{5}/(files|plan)\.json",
        r"segments/\d{5}/tokens/part-\d{5}\.parquet",
        r"segments/\d{5}/sites/(resid\.1/)?zarr\.json",
        r"segments/\d{5}/sites/resid\.1/c\.\d+\.0",
        r"segments/\d{5}/(done/resid\.1/\d{5}|sealed/resid\.1)\.json",
    ]
    there = [
        path.relative_to(cache.folder.local).as_posix() for path in cache.folder.local.rglob("*") if path.is_file()
    ]
    assert [path for path in there if not any(re.fullmatch(pattern, path) for pattern in patterns)] == []
