"""`garner export`: a folder that its own README opens where garner cannot be imported."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.export import exported
from pipeline.progress import Progress
from pipeline.run import run
from storage import InputError, Lake, RunError
from tests.pipeline import tiny

CACHES = {
    "bits": {"dtype": "bfloat16", "tokenise": {"kind": "packed"}},
    "plain": {"dtype": "float32"},
    "rounded": {"dtype": "int8"},
    "compressed": {"dtype": "float16", "compress": "zstd"},
    "selected": {"dtype": "float32", "tokenise": {"kind": "packed", "select": {"kind": "every", "n": 2}}},
}
STRANGER = """
import json, sys

class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("storage", "pipeline", "workers", "jobs"):
            raise ImportError(f"{name} is not to be had here")

sys.meta_path.insert(0, Nothing())
exec(compile(open("README.py").read(), "README.py", "exec"))
np.save("rows.npy", numbers(array))
assert np.array_equal(x_ND, numbers(array)[:1000], equal_nan=True)
json.dump(tokens.to_pylist(), open("spans.json", "w"))
assert not {"storage", "pipeline", "workers", "jobs"} & set(sys.modules)
"""


@pytest.fixture(scope="module")
def lake(tmp_path_factory, decoder):
    """Caches of two segments and two sites, several shards to a segment; a label that is null, then a number."""
    base = tmp_path_factory.mktemp("exported")
    recipe = tiny.table(decoder, base)
    recipe["corpora"]["docs"]["labels"] = ["number"]
    common = {"model": "model", "corpus": "docs", "sites": ["embed", "resid.1"], "context": 16, "unit": 128}
    recipe["caches"] = {name: common | cache for name, cache in CACHES.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("storage.layout.CHUNK_BYTES", 2**11)
        patch.setattr("storage.layout.SHARD_BYTES", 2**13)
        for number, name in ((None, "a"), (7, "b")):
            lines = [{"text": text, "number": number} for text in tiny.TEXTS]
            tiny.write_lines(base / "docs" / f"{name}.jsonl", lines)
            run(tiny.read(recipe, base), Progress(live=False))
    return Lake(str(base / "lake"))


def named(lake, wanted):
    """The cache that the recipe calls so."""
    for cache in map(lake.cache, lake.caches()):
        what = cache.record.identity
        selects = "select" in what.tokenisation
        if what.dtype == CACHES[wanted]["dtype"] and selects == ("select" in CACHES[wanted].get("tokenise", {})):
            return cache
    raise AssertionError(wanted)


def export(lake, cache, folder, *sites):
    return "\n".join(exported(lake.folder.url, cache.id, str(folder), sites, Progress(live=False)))


@pytest.mark.parametrize("name", CACHES)
def test_the_readme_opens_its_own_folder_where_garner_cannot_be_imported(lake, name, tmp_path):
    cache, out = named(lake, name), tmp_path / "out"
    export(lake, cache, out, "resid.1")
    (code,) = re.findall(r"```python\n(.*?)```", (out / "README.md").read_text(), re.DOTALL)
    (out / "README.py").write_text(code)
    (tmp_path / "stranger.py").write_text(STRANGER)
    told = subprocess.run(
        [sys.executable, "-I", str(tmp_path / "stranger.py")], cwd=out, capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stderr
    x_ND, spans = np.load(out / "rows.npy"), json.loads((out / "spans.json").read_text())
    np.testing.assert_array_equal(x_ND, cache.site("resid.1")[:].astype(np.float32))
    every, tokens = np.arange(cache.n_rows), cache.tokens
    said = [
        (span["start"] + n, span["sequence"], span["document"], span["key"], span["input_ids"][at], span["number"])
        for span in spans
        for n, at in enumerate(range(span["length"]) if span["rows"] is None else span["rows"])
    ]
    documents = tokens.documents(every)
    assert said == list(
        zip(
            every.tolist(),
            tokens.sequences(every).tolist(),
            documents.tolist(),
            tokens.document_ids[documents].tolist(),
            tokens.ids(every).tolist(),
            tokens.label("number")[documents].tolist(),
            strict=True,
        )
    )
    assert {span["number"] for span in spans} == {None, 7}


def test_an_export_is_several_shards_of_one_array_over_both_segments(lake, tmp_path):
    cache = named(lake, "plain")
    export(lake, cache, tmp_path / "out")
    assert len(cache.segments) == 2
    shape = json.loads((tmp_path / "out/sites/embed/zarr.json").read_text())["shape"]
    assert shape == [cache.n_rows, tiny.WIDTH]
    assert len(list((tmp_path / "out/sites/embed").glob("c.*.0"))) > 4


def test_every_file_has_its_checksum(lake, tmp_path):
    export(lake, named(lake, "plain"), tmp_path)
    sums = dict(reversed(line.split("  ")) for line in (tmp_path / "SHA256SUMS").read_text().splitlines())
    files = {path.relative_to(tmp_path).as_posix(): path for path in tmp_path.rglob("*") if path.is_file()}
    assert set(sums) == set(files) - {"SHA256SUMS"}
    assert all(hashlib.sha256(files[name].read_bytes()).hexdigest() == digest for name, digest in sums.items())


def test_the_page_says_what_it_is_and_where_it_came_from(lake, tmp_path):
    cache = named(lake, "rounded")
    export(lake, cache, tmp_path)
    page, what = (tmp_path / "README.md").read_text(), cache.record.identity
    for part in (what.model.name, what.model.weights, what.tokenizer, "context = 16", "*.jsonl", "Licence:"):
        assert part in page
    for site in cache.sites:
        assert f"| `{site}` | {cache.n_rows:,} x {tiny.WIDTH} | float32 | int8 codes and scales |" in page
    files = {file.path for segment in cache.segments for file in segment.claimed.files}
    told = json.loads((tmp_path / "origins.json").read_text())
    assert {file["name"] for node in told for segment in node["nodes"] for file in segment["nodes"]} == files


def test_only_the_segments_that_all_its_sites_have_are_exported(lake, tmp_path):
    cache = named(lake, "plain")
    sealed = Path(cache.folder.url) / "segments/00001/sealed/resid.1.json"
    kept = sealed.read_bytes()
    sealed.unlink()
    try:
        said = export(lake, cache, tmp_path / "both")
        export(lake, cache, tmp_path / "one", "embed")
    finally:
        sealed.write_bytes(kept)
    assert "left out: segments from 1 on" in said
    first = cache.segments[0].plan.rows
    for folder, rows in (("both", first), ("one", cache.n_rows)):
        spans = pq.read_table(tmp_path / folder / "tokens").to_pylist()
        assert spans[-1]["start"] + spans[-1]["length"] == rows
        assert json.loads((tmp_path / folder / "sites/embed/zarr.json").read_text())["shape"][0] == rows
    assert not (tmp_path / "one/sites/resid.1").exists()


def test_a_folder_that_is_not_empty_is_refused(lake, tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match="is not empty"):
        export(lake, named(lake, "plain"), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_site_that_is_not_there_is_refused_before_anything_is_written(lake, tmp_path):
    with pytest.raises(InputError, match="has no site"):
        export(lake, named(lake, "plain"), tmp_path / "out", "resid.0")
    assert not (tmp_path / "out").exists()


def test_a_damaged_shard_is_refused_and_the_folder_has_no_page(lake, tmp_path):
    cache = named(lake, "plain")
    shard = Path(cache.folder.url) / "segments/00001/sites/embed/c.1.0"
    kept = shard.read_bytes()
    shard.write_bytes(kept[:100] + bytes([kept[100] ^ 1]) + kept[101:])
    try:
        with pytest.raises(RunError, match="damaged"):
            export(lake, cache, tmp_path)
    finally:
        shard.write_bytes(kept)
    assert not (tmp_path / "README.md").exists()
