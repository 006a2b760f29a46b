"""The map of sites: planted agreement is found where it was planted, controls take planted anisotropy away."""

import io

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import Doc, build_cache

import jobs.persistence as persistence
from jobs.core import linalg
from jobs.persistence.cells import from_table
from jobs.persistence.config import Config
from jobs.persistence.report import matched
from storage import InputError, Site

WORDS = [f"w{n:02d}" for n in range(60)]
TIMES = 8


def rotation(d, wider, seed):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(wider, d)))[0].T


def texts(seed):
    """Every word `TIMES` times, in documents of 48 words after a first one; -1 for that, number of the word by row."""
    parts = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(WORDS)), TIMES)).reshape(-1, 48)
    documents = [Doc(" ".join(["begin", *(WORDS[n] for n in part)]), key=f"d{at:02d}") for at, part in enumerate(parts)]
    return np.pad(parts, ((0, 0), (1, 0)), constant_values=-1).ravel(), documents


@pytest.fixture
def planted(lake):
    """Two models: the tables agree up to rotation and noise, upper layers agree less; the last is of another make."""
    return make(lake)


def make(lake, seeds=(1, 2), unit=256, offset=30.0):
    rng = np.random.default_rng(0)
    word, other = rng.normal(size=(60, 12)), rng.normal(size=(60, 12))
    levels = {"embed": (word, word), "resid.0": (word + 0.7 * other, word), "resid.1": (other, word)}
    caches = {}
    for side, (name, width, seed) in enumerate((("s", 16, seeds[0]), ("t", 20, seeds[1]))):
        order, documents = texts(seed)
        sites = {}
        for at, (site, both) in enumerate(levels.items()):
            means = both[side] @ rotation(12, width, seed=10 * side + at) + offset * rng.normal(size=width)
            noise = np.random.default_rng([7, side, at]).normal(size=(60, TIMES, width)) * 0.3
            noise -= noise.mean(1, keepdims=True)  # a word's mean is what was planted, whatever the order
            nth = np.array([(order[:row] == n).sum() % TIMES for row, n in enumerate(order)])
            sites[site] = (means[order] + noise[order, nth]).astype(np.float32)
        caches[name] = build_cache(lake, sites, [documents], name=f"{name}.words", unit=unit)
    return caches


def config(**kw):
    return Config(**({"source": "s", "target": "t", "k": 5} | kw))


def lines(artifact):
    found = pq.read_table(io.BytesIO(artifact.read("map.parquet"))).to_pylist()
    return {(one["source"], one["target"], one["measure"], one["control"]): one for one in found}


def test_sites_agree_where_it_was_planted_and_nulls_are_empty(run_job, planted):
    report, artifact = run_job(persistence, config(), planted)
    found = lines(artifact)
    assert len(found) == 3 * 3 * 4 * 3
    for measure in ("pearson", "cka", "neighbours", "rotation"):
        same, some, none = (
            found[site, "embed", measure, "centred"]["value"] for site in ("embed", "resid.0", "resid.1")
        )
        assert same > 0.99
        assert same > some > none
        assert none < 0.2
        assert found["embed", "embed", measure, "centred"]["null"] < 0.15
    assert "permuted tokens" in report.headline
    assert report.headline.count("embed") >= 2


def test_a_shared_direction_hides_agreement_until_states_are_centred(run_job, planted):
    found = lines(run_job(persistence, config(), planted)[1])
    raw, centred = (found["embed", "embed", "pearson", control]["value"] for control in ("raw", "centred"))
    assert centred > 0.99 > raw + 0.01


def test_a_wide_direction_fakes_agreement_until_it_is_removed(run_job, lake):
    rng = np.random.default_rng(3)
    wide = 40 * rng.normal(size=(60, 1))
    caches = {}
    for name, width, seed in (("s", 16, 1), ("t", 20, 2)):
        order, documents = texts(seed)
        x = rng.normal(size=(60, width)) + wide @ rng.normal(size=(1, width)) / np.sqrt(width)
        caches[name] = build_cache(lake, {"embed": x[order].astype(np.float32)}, [documents], name=f"{name}.words")
    found = lines(run_job(persistence, config(top=1), caches)[1])
    for measure in ("pearson", "cka"):
        centred, without = (
            found["embed", "embed", measure, control]["value"] for control in ("centred", "without_top")
        )
        assert centred > 0.8
        assert abs(without) < 0.15


def test_measures_are_those_of_their_definitions(run_job, planted):
    found = lines(run_job(persistence, config(), planted)[1])

    def means(name, site):
        cache = planted[name]
        ids = np.array(cache.tokens.strings(slice(None)))
        x = np.asarray(cache.site(Site.parse(site))[:], np.float64)
        x = np.stack([x[ids == word].mean(0) for word in WORDS])
        return x - x.mean(0)

    x, y = means("s", "resid.0"), means("t", "resid.1")
    a, b = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (x, y))
    upper = np.triu_indices(60, 1)
    r = np.corrcoef((a @ a.T)[upper], (b @ b.T)[upper])[0, 1]
    assert found["resid.0", "resid.1", "pearson", "centred"]["value"] == pytest.approx(r, abs=1e-6)
    near = [np.argsort(-(z @ z.T - 2 * np.eye(60)), axis=1, kind="stable")[:, :5] for z in (a, b)]
    shared = np.mean([len(set(p) & set(q)) / 5 for p, q in zip(*near, strict=True)])
    assert found["resid.0", "resid.1", "neighbours", "centred"]["value"] == pytest.approx(shared)
    assert found["resid.0", "resid.1", "cka", "centred"]["value"] == pytest.approx(_cka(x, y), abs=1e-6)


def _cka(x, y):
    """Debiased, from the kernels themselves (Song et al. 2012)."""

    def hsic(k, other):
        k, other, n = k - np.diag(np.diag(k)), other - np.diag(np.diag(other)), len(k)
        ones = np.ones(n)
        total = np.trace(k @ other) + ones @ k @ ones * (ones @ other @ ones) / ((n - 1) * (n - 2))
        return (total - 2 / (n - 2) * ones @ k @ other @ ones) / (n * (n - 3))

    k, other = x @ x.T, y @ y.T
    return hsic(k, other) / np.sqrt(hsic(k, k) * hsic(other, other))


def test_blocks_shards_and_order_of_rows_change_no_number(run_job, lake, planted, monkeypatch):
    before = lines(run_job(persistence, config(), planted)[1])
    monkeypatch.setattr(linalg, "WORKING_BYTES", 4000)
    monkeypatch.setattr("jobs.geometry.points.BLOCK", 37)
    rng_offset = make(lake, seeds=(5, 6), unit=32)
    after = lines(run_job(persistence, config(), rng_offset)[1])
    for place, one in before.items():
        if one["control"] != "raw":
            assert after[place]["value"] == pytest.approx(one["value"], abs=2e-5)


def test_parts_are_put_together_as_if_they_were_one(run_job, planted):
    whole = lines(run_job(persistence, config(), planted)[1])
    parts = {
        name: run_job(persistence, config(source_sites=tuple(map(Site.parse, sites))), planted)[1]
        for name, sites in (("low", ("embed",)), ("high", ("resid.0", "resid.1")))
    }
    assert persistence.artifacts(config(parts=("low", "high"))) == ("low", "high")
    report, joined = run_job(persistence, config(parts=("low", "high")), planted, artifacts=parts)
    assert list(lines(joined)) == list(whole)
    assert lines(joined) == whole
    assert "Put together from low, high." in report.notes
    with pytest.raises(InputError, match=r"parts low, twice measured a pair of sites twice"):
        run_job(persistence, config(parts=("low", "twice")), planted, artifacts=parts | {"twice": parts["low"]})


def test_sites_of_equal_relative_depth_are_matched(run_job, planted):
    _, artifact = run_job(persistence, config(source_sites=(Site.parse("embed"), Site.parse("resid.1"))), planted)
    cells = from_table(artifact)
    pairs = matched(cells)
    assert [(str(a), str(b)) for a, b in pairs] == [("embed", "embed"), ("resid.1", "resid.1")]


def test_too_few_tokens_are_refused(run_job, planted):
    with pytest.raises(
        InputError, match=r"k = 5 neighbours want more than 6 tokens that both caches have 9 times; found 0"
    ):
        run_job(persistence, config(min_count=9), planted)
    with pytest.raises(ValueError, match="leave out source_sites and target_sites"):
        config(parts=("a",), source_sites=(Site.parse("embed"),))


def test_models_that_learnt_one_language_agree_up_to_their_last_layers(run_job, pairs):
    pair = pairs.tied
    report, artifact = run_job(
        persistence, Config(source="s", target="t"), {"s": pair.narrow_texts, "t": pair.wide_texts}
    )
    found = lines(artifact)
    for low, high in (("embed", "embed"), ("resid.0", "resid.1"), ("resid.1", "resid.2"), ("unembed", "unembed")):
        for measure in ("pearson", "cka"):
            one = found[low, high, measure, "centred"]
            assert one["value"] > 0.5
            assert abs(one["null"]) < 0.05
    metrics = {metric.name: metric for metric in report.metrics}
    assert metrics["pearson at matched depth"].value > 0.6
