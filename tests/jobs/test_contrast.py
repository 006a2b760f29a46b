"""Planted directions come back, of the length and sign that were planted, and exchanged sides give none."""

import io

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from conftest import Doc

import jobs.contrast as contrast
from jobs.contrast.config import Config
from jobs.probe.examples import EveryToken, LastToken, MeanToken
from storage import InputError, Site

WIDTH, N = 12, 240
SITE = Site.parse("resid.0")


def planted(make_cache, strength=2.0, spread=None, order=None, sides=("yes", "no")):
    """Documents of three tokens; the sides lie `strength` apart along the first axis. The second site is noise."""
    rng = np.random.default_rng(0)
    sided = np.arange(N) % len(sides)
    x = rng.normal(size=(N, 3, WIDTH)) * (np.ones(WIDTH) if spread is None else spread)
    x += rng.normal(size=(N // 2, 1, WIDTH)).repeat(2, 0)  # what a pair shares
    x[..., 0] += strength * (sided == 0)[:, None]
    order = np.arange(N) if order is None else order
    documents = [
        Doc("a b c", {"side": sides[sided[n]], "pair": f"p{n // 2}", "half": f"{n % 2} {n // 8}"}, key=f"d{n:03d}")
        for n in order
    ]
    noise = rng.normal(size=x.shape)
    sites = {"resid.0": x[order].reshape(-1, WIDTH), "resid.1": noise[order].reshape(-1, WIDTH)}
    return {"c": make_cache({name: rows.astype(np.float32) for name, rows in sites.items()}, documents)}


def config(**kw):
    chosen = {"cache": "c", "label": "side", "positive": "yes", "pooling": MeanToken(skip=0)} | kw
    return Config(**chosen)


def metrics(report):
    return {metric.name: metric for metric in report.metrics}


METHODS = ("mean_difference", "pca", "probe")


def test_every_method_finds_the_planted_direction_at_its_length(run_job, make_cache):
    report, artifact = run_job(contrast, config(methods=METHODS, pair="pair"), planted(make_cache, strength=4))
    vectors = contrast.load(artifact)
    for method in METHODS:
        vector_D = vectors.at(SITE, method)
        assert vector_D.norm() == pytest.approx(4, rel=0.1)
        assert vector_D[0] / vector_D.norm() > 0.9
        metric = metrics(report)[f"resid.0 {method} AUROC"]
        assert metric.value > 0.98
        assert metric.null == pytest.approx(0.5, abs=0.15)
        assert metrics(report)[f"resid.1 {method} AUROC"].value == pytest.approx(0.5, abs=0.25)
    assert report.headline.startswith("side, yes against all others: at resid.0")


def test_a_probe_turns_away_from_directions_that_vary_much_and_a_mean_difference_does_not(run_job, make_cache):
    """Noise that the label does not explain is shared with a second axis: only the probe subtracts it."""
    rng = np.random.default_rng(1)
    noise = 5 * rng.normal(size=N)
    x = rng.normal(size=(N, WIDTH)) * 0.3
    x[:, 0] += noise + 2 * (np.arange(N) % 2 == 0)
    x[:, 1] += noise
    documents = [Doc("a", {"side": ("yes", "no")[n % 2]}, key=f"d{n:03d}") for n in range(N)]
    cache = make_cache({"resid.0": x.astype(np.float32)}, documents)
    report, artifact = run_job(contrast, config(), {"c": cache})
    found = metrics(report)
    assert found["resid.0 probe AUROC"].value > 0.95 > 0.8 > found["resid.0 mean_difference AUROC"].value
    probe_D = contrast.load(artifact).at(SITE, "probe")
    assert probe_D[0] > 0 > probe_D[1]


def test_the_mean_difference_is_that_of_training_documents(run_job, make_cache):
    caches = planted(make_cache)
    _, artifact = run_job(contrast, config(), caches)
    cache = caches["c"]
    split = contrast.sides.split_of(config(), cache.tokens)
    x = np.asarray(cache.site(SITE)[:]).reshape(N, 3, WIDTH).mean(1)
    yes = np.arange(N) % 2 == 0
    expected = x[split.train & yes].mean(0) - x[split.train & ~yes].mean(0)
    np.testing.assert_allclose(contrast.load(artifact).at(SITE, "mean_difference").numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("pair", [None, "pair"])
def test_exchanged_sides_leave_both_in_each_part_of_the_split(make_cache, pair):
    """Of three pairs and a document on its own, one pair to fit on, one to choose by and one held out."""
    values = [*(f"p{n // 2}" for n in range(6)), None]
    documents = [Doc("a", {"side": ("yes", "no")[n % 2], "pair": value}) for n, value in enumerate(values)]
    cache = make_cache({"resid.0": np.zeros((7, 2), np.float32)}, documents)
    seen, tried = set(), 0
    for seed in range(400):
        try:
            sides = contrast.sides.choose(config(pair=pair, seed=seed), cache.tokens, 7)
        except InputError:
            continue  # the hash left a part without one of the sides
        tried += 1
        y_N = sides.exchanged(np.random.default_rng(seed))
        for mask_N in (sides.parts.train, sides.parts.validation, sides.parts.test):
            assert set(y_N[mask_N]) == {0, 1}
        if pair:
            assert (y_N[0:6:2] + y_N[1:6:2]).tolist() == [1, 1, 1]
        seen.add(tuple(y_N))
    assert tried > 3
    assert len(seen) > 1


@pytest.mark.parametrize("pooling", [EveryToken(skip=0), LastToken(), MeanToken(skip=0)])
def test_examples_are_tokens_or_documents(run_job, make_cache, pooling):
    report, _ = run_job(contrast, config(pooling=pooling), planted(make_cache, strength=4))
    assert metrics(report)["resid.0 mean_difference AUROC"].value > 0.9


def test_one_value_may_stand_against_one_other(run_job, make_cache):
    caches = planted(make_cache, strength=4, sides=("yes", "no", "maybe"))
    report, _ = run_job(contrast, config(negative="no"), caches)
    assert any("80 documents positive and 80 documents negative" in note for note in report.notes)
    assert any("80 of neither side were left out" in note for note in report.notes)


def test_pairs_stay_on_one_side_of_the_split(make_cache):
    cache = planted(make_cache)["c"]
    split = contrast.sides.split_of(config(pair="pair"), cache.tokens)
    for mask in (split.train, split.validation, split.test):
        np.testing.assert_array_equal(mask[::2], mask[1::2])


def test_a_site_where_both_sides_are_the_same_has_vectors_of_zero_and_says_so(run_job, make_cache):
    """As the embeddings of last tokens do where every document ends with a full stop."""
    rng = np.random.default_rng(0)
    documents = [Doc("a", {"side": ("yes", "no")[n % 2], "pair": f"p{n // 2}"}, key=f"d{n:03d}") for n in range(N)]
    sites = {"embed": rng.normal(size=WIDTH) * np.ones((N, 1)), "resid.0": rng.normal(size=(N, WIDTH))}
    cache = make_cache({name: x.astype(np.float32) for name, x in sites.items()}, documents)
    report, artifact = run_job(contrast, config(methods=METHODS, pair="pair"), {"c": cache})
    for method in METHODS:
        assert contrast.load(artifact).at(Site.parse("embed"), method).tolist() == [0] * WIDTH
        assert metrics(report)[f"embed {method} AUROC"].value == 0.5
        assert contrast.load(artifact).at(SITE, method).norm() > 0.1
    assert any("same states at embed" in note for note in report.notes)


def test_order_of_rows_changes_no_number(run_job, make_cache):
    orders = [None, np.random.default_rng(3).permutation(N)]
    found = [run_job(contrast, config(methods=METHODS, pair="pair"), planted(make_cache, order=o)) for o in orders]
    one, other = (contrast.load(artifact) for _, artifact in found)
    for method in METHODS:
        torch.testing.assert_close(one.at(SITE, method), other.at(SITE, method), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(one.at(SITE, "pca"), other.at(SITE, "pca"), rtol=1e-6, atol=1e-6)
    nulls = [[metric.null for metric in metrics(report).values() if "AUROC" in metric.name] for report, _ in found]
    assert nulls[0] == pytest.approx(nulls[1], rel=1e-6)


def test_it_leaves_a_table_and_a_figure(run_job, make_cache):
    _, artifact = run_job(contrast, config(), planted(make_cache))
    lines = pq.read_table(io.BytesIO(artifact.read("vectors.parquet"))).to_pylist()
    assert [(line["site"], line["method"]) for line in lines] == [
        (site, method) for site in ("resid.0", "resid.1") for method in ("mean_difference", "probe")
    ]
    assert lines[0]["cosine_with_mean_difference"] == pytest.approx(1)
    assert artifact.read("figures/sites.svg").startswith(b"<?xml")
    with pytest.raises(InputError, match=r"holds no vector resid\.0/pca; it holds resid\.0/mean_difference"):
        contrast.load(artifact).at(SITE, "pca")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"positive": "perhaps"}, r"no document has side = 'perhaps'; the values are no, yes: name one"),
        ({"negative": "perhaps"}, r"no document has side = 'perhaps'"),
        ({"label": "colour"}, r"there is no label 'colour'"),
        ({"methods": ("pca",), "pair": "half", "positive": "yes"}, r"pairs to fit on have documents of both sides"),
    ],
)
def test_refusals_name_what_there_is(run_job, make_cache, wrong, says):
    with pytest.raises(InputError, match=says):
        run_job(contrast, config(**wrong), planted(make_cache))


def test_a_constant_label_and_one_with_a_document_are_refused(run_job, make_cache):
    with pytest.raises(InputError, match=r"every document has side = 'yes': a direction wants documents of another"):
        run_job(contrast, config(), planted(make_cache, sides=("yes",)))
    documents = [Doc("a", {"side": "yes" if n else "no"}, key=str(n)) for n in range(50)]
    cache = make_cache({"resid.0": np.zeros((50, 4), np.float32)}, documents)
    with pytest.raises(
        InputError, match=r"side = not yes has 1 documents with states: .* each part needs one: harvest"
    ):
        run_job(contrast, config(), {"c": cache})


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"negative": "yes"}, "are both 'yes'"),
        ({"methods": ("pca",)}, "name the label column `pair`"),
        ({"methods": ()}, "at least one"),
        ({"validation": 0.6, "test": 0.5}, "leave no documents to fit on"),
    ],
)
def test_configurations_that_cannot_be(wrong, says):
    with pytest.raises(ValueError, match=says):
        config(**wrong)
