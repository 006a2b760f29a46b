"""The job on a small cache: every method end to end, the artifact it leaves, and what it refuses."""

import io
import json

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from conftest import Doc

from jobs import factors, load, names, sae
from jobs.sae.rows import split_rows
from storage import InputError, Site
from storage.index import TokenIndex
from storage.value import canonical, convert

WORDS = ["wave", "tide", "boat", "sail", "foam", "rock", "path", "goat", "pine", "snow"]


@pytest.fixture(scope="module")
def world():
    """140 documents of 18 words; a row is its word's direction, without negative entries, and a little noise."""
    rng = np.random.default_rng(0)
    direction = dict(zip(WORDS, rng.random((10, 16)) * (rng.random((10, 16)) < 0.5), strict=True))
    documents, rows = [], []
    for number in range(140):
        text = rng.choice(WORDS[:5] if number % 2 else WORDS[5:], 18)
        documents.append(Doc(" ".join(text), {"topic": "sea" if number % 2 else "hill"}, f"file:{number}"))
        rows += [direction[word] * rng.uniform(0.5, 1.5) + 0.01 * rng.random(16) for word in text]
    return documents, np.array(rows, np.float32)


@pytest.fixture
def cache(make_cache, world):
    documents, rows = world
    return make_cache(sites={"resid.0": rows}, documents=documents)


def config(method, **fields):
    small = {"cache": "c", "site": Site("resid", 0), "width": 10, "held_out": 0.4, "n_examples": 8, "n_features": 4}
    return factors.Config(**(small | {"method": method} | fields))


def reload(artifact, chosen):
    artifact.record = msgspec.structs.replace(artifact.record, config=json.loads(canonical(chosen)))
    return factors.load(artifact)


METHODS = [
    factors.Pca(keep=4),
    factors.Ica(),
    factors.KMeans(),
    factors.Nmf(),
    factors.SemiNmf(keep=2),
    factors.ConvexNmf(support=8),
    factors.Archetypes(sweeps=10),
    factors.Random(),
]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__struct_config__.tag)
def test_every_method_reports_what_an_sae_does_and_reloads_to_the_same_codes_bit_for_bit(
    cache, run_job, method, monkeypatch
):
    made = []
    of = factors.Factors.of
    monkeypatch.setattr(factors.Factors, "of", lambda *a: (made.append(of(*a)), made[-1])[1])
    chosen = config(method)
    report, artifact = run_job(factors, chosen, {"c": cache})
    metrics = {metric.name: metric for metric in report.metrics}
    shape = {"ood", "stable_rank", "effective_rank", "coherence", "pair_coverage", "interference"}
    assert {"fvu", "pca_fvu", "l0", "dead", "auroc.topic", *shape} <= set(metrics)
    if not isinstance(method, factors.Random):
        assert metrics["fvu"].value < 0.2
    keep = getattr(method, "keep", None)
    assert metrics["l0"].value <= (keep or 10)
    x = torch.from_numpy(cache.site("resid.0")[:400].astype(np.float32))
    again = reload(artifact, chosen)
    assert torch.equal(made[0].encode(x).z_BF, again.encode(x).z_BF)
    assert torch.equal(made[0].decode(made[0].encode(x)), again.decode(again.encode(x)))
    assert {"weights.safetensors", "features.parquet", "contexts.parquet", "features.html"} <= set(artifact.files)


def test_the_split_is_that_of_an_sae_of_the_same_seed_and_no_held_out_row_is_fitted(cache, run_job, monkeypatch):
    fitted = []
    fit = factors.Pca.fit
    monkeypatch.setattr(factors.Pca, "fit", lambda self, x, *rest: (fitted.append(x), fit(self, x, *rest))[1])
    chosen = config(factors.Pca(), normalise="none", max_rows=500)
    run_job(factors, chosen, {"c": cache})
    rows = cache.site("resid.0")[:]
    asked = sae.Config(cache="c", site=Site("resid", 0), held_out=0.4)
    held = split_rows(asked, _Caches({"c": cache})).held_H
    places = {row.tobytes(): n for n, row in enumerate(rows)}
    seen = np.array([places[row.tobytes()] for row in fitted[0].numpy()])
    assert len(set(seen)) == 500
    assert not np.isin(seen, held).any()


class _Caches:
    """As much of a context as reading rows takes."""

    device = "cpu"

    def __init__(self, caches):
        self.cache = caches.__getitem__


def test_twins_give_the_stability_of_a_method_with_its_start_where_it_has_one(cache, run_job):
    def stability(method, **fields):
        report, _ = run_job(factors, config(method, twins=1, **fields), {"c": cache})
        return {metric.name: metric.value for metric in report.metrics if "stabili" in metric.name}, report.notes

    found, notes = stability(factors.SemiNmf())
    assert found["stability"] > 0.9
    assert found["stabilisation"] == found["stability"] - found["stability_init"]
    assert any("seeds 0 to 1" in note for note in notes)
    found, notes = stability(factors.Pca())
    assert list(found) == ["stability"]
    assert found["stability"] == pytest.approx(1, abs=1e-4)
    found, _ = stability(factors.Random())
    assert found["stabilisation"] == 0


def test_archetypes_name_the_rows_that_they_are_made_of(cache, run_job):
    chosen = config(factors.Archetypes(sweeps=10))
    _, artifact = run_job(factors, chosen, {"c": cache})
    table = pq.read_table(io.BytesIO(artifact.read("mixtures.parquet"))).to_pydict()
    rows, weights, atoms = (np.array(table[name]) for name in ("row", "weight", "atom"))
    assert (weights > 0).all()
    assert np.bincount(atoms, weights, 10) == pytest.approx(np.ones(10), abs=1e-9)
    assert table["token"] == cache.tokens.strings(rows)
    coder = reload(artifact, chosen)
    x_AD = (cache.site("resid.0")[rows] - coder.shift_D.numpy()) * coder.scale_D.numpy()
    mixed = np.stack([np.bincount(atoms, weights * column, 10) for column in x_AD.T], 1)
    assert mixed == pytest.approx(coder.atoms_FD.numpy(), abs=1e-4)


def test_more_rows_than_asked_for_are_not_drawn_and_the_report_says_how_many_were(cache, run_job):
    report, _ = run_job(factors, config(factors.KMeans(), max_rows=300), {"c": cache})
    assert report.notes[0].startswith("Fitted to 300 of ")


def test_a_recipe_table_decodes_and_contradictions_are_refused():
    assert "factors" in names()
    assert load("factors") is factors
    table = {"cache": "c", "site": "resid.6", "method": {"kind": "convex_nmf", "support": 8}}
    chosen = convert(table, factors.Config, "jobs.x")
    assert chosen.method == factors.ConvexNmf(support=8)
    assert factors.reads(chosen)[0].sites == (Site("resid", 6),)
    for wrong, said in [
        ({"method": {"kind": "pca", "keep": 300}}, "keep is 300 but width is 256"),
        ({"method": {"kind": "nmf"}, "normalise": "centre"}, "negative entries that nmf cannot"),
        ({"method": {"kind": "kmeans", "keep": 2}}, "keep"),
        ({"method": {"kind": "svd"}}, "method"),
        ({"width": 0}, "width"),
    ]:
        with pytest.raises(InputError, match=said):
            convert({"cache": "c", "site": "resid.6"} | wrong, factors.Config, "jobs.x")


@pytest.mark.parametrize(
    ("method", "fields", "said"),
    [
        (factors.Pca(), {"width": 17}, "pca was asked for 17 features of .* with 16 dimensions"),
        (factors.Ica(), {"width": 17}, "ica was asked for 17"),
        (factors.KMeans(), {"width": 400, "max_rows": 300}, "kmeans was asked for 400 features of 300 rows"),
        (factors.Archetypes(), {"width": 400, "max_rows": 300}, "archetypes was asked for 400"),
    ],
)
def test_more_features_than_a_method_finds_are_refused(cache, run_job, method, fields, said):
    with pytest.raises(InputError, match=said):
        run_job(factors, config(method, **fields), {"c": cache})


def test_rows_with_a_negative_entry_are_refused_by_nmf_with_what_to_do(make_cache, run_job, world):
    documents, rows = world
    cache = make_cache(sites={"resid.0": rows - 0.5}, documents=documents)
    with pytest.raises(InputError, match=r"least of the .* is -.*use semi_nmf"):
        run_job(factors, config(factors.Nmf()), {"c": cache})


@pytest.mark.parametrize("method", [factors.ConvexNmf(support=8), factors.Archetypes(sweeps=5)])
def test_atoms_of_rows_without_text_are_told_by_their_rows(cache, run_job, monkeypatch, method):
    monkeypatch.setattr(TokenIndex, "has_text", False)  # as of images
    _, artifact = run_job(factors, config(method), {"c": cache})
    lines = pq.read_table(io.BytesIO(artifact.read("mixtures.parquet"))).to_pylist()
    lines = [line for line in lines if line["row"] is not None]  # the others are k-means centres
    assert lines
    assert all(line["left"] == line["right"] == "" and line["token"].startswith("[") for line in lines)
