"""The job on a small cache: what it finds, leaves and refuses."""

import io
import json

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from conftest import Doc

from jobs import sae
from jobs.sae import saelens
from jobs.sae.candidates import KMeans
from jobs.sae.coder import Coder
from jobs.sae.figures import printable
from storage import InputError, Site
from storage.value import canonical, convert
from tests.jobs.sae.planting import config

TOPICS = {"sea": "wave tide boat sail foam gull", "hill": "rock path goat pine snow peak"}


@pytest.fixture(scope="module")
def world():
    """240 documents on two topics; a row is its word's direction plus its topic's: (documents, rows)."""
    rng = np.random.default_rng(0)
    words = " ".join(TOPICS.values()).split()
    direction = dict(zip([*words, *TOPICS], rng.standard_normal((len(words) + 2, 24)), strict=True))
    documents, rows = [], []
    for number in range(240):
        topic = list(TOPICS)[number % 2]
        text = rng.choice(TOPICS[topic].split(), 40)
        documents.append(Doc(" ".join(text), {"topic": topic, "number": number}, f"file:{number}"))
        rows += [direction[word] + 0.5 * direction[topic] + 0.05 * rng.standard_normal(24) for word in text]
    return documents, np.array(rows, np.float32)


SMALL = {"width": 32, "activation": sae.TopK(k=2), "batch": 256, "epochs": 6, "held_out": 0.3, "n_examples": 8}


@pytest.fixture(params=["float32", "bfloat16"])
def cache(request, make_cache, world):
    documents, rows = world
    return make_cache(sites={"resid.0": rows}, documents=documents, dtype=request.param)


def test_the_job_finds_readable_features_and_leaves_all_of_it(cache, run_job):
    report, artifact = run_job(sae, config(**SMALL), {"c": cache})
    metrics = {metric.name: metric for metric in report.metrics}
    told = ["token_set_f1", "ngram_f1", "detection_accuracy"]
    shape = ["ood", "stable_rank", "effective_rank", "coherence", "pair_coverage", "interference"]
    probed = ["dense", "rare", *(f"sparse_probing.topic.{of}" for of in ("k1", "codes", "states"))]
    probed += ["plausibility.topic.scaled", "identifiability.topic.one_feature"]
    assert list(metrics) == ["fvu", "pca_fvu", "l0", "dead", "purity", "auroc.topic", *told, *probed, *shape]
    assert metrics["sparse_probing.topic.k1"].value > 0.9 > 0.65 > metrics["sparse_probing.topic.k1"].null
    assert metrics["plausibility.topic.scaled"].value > metrics["plausibility.topic.scaled"].null
    assert metrics["identifiability.topic.one_feature"].value > metrics["identifiability.topic.one_feature"].null
    assert metrics["ood"].value < 0.4 < 0.5 < metrics["ood"].null
    assert metrics["fvu"].value < 0.2 < metrics["fvu"].null
    assert metrics["fvu"].value < metrics["pca_fvu"].value
    assert 1 <= metrics["l0"].value <= 2
    assert metrics["purity"].value > 0.8 > 0.5 > metrics["purity"].null
    assert metrics["auroc.topic"].value > 0.95
    assert metrics["auroc.topic"].null == pytest.approx(0.5, abs=0.15)
    assert {file.name for file in artifact.record.files} == {
        "weights.safetensors",
        "features.parquet",
        "concepts.parquet",
        "contexts.parquet",
        "history.parquet",
        "features.html",
        "figures/training.svg",
        "figures/features.svg",
        "figures/contexts.svg",
    }


def test_examples_are_the_strongest_held_out_tokens_with_their_text(cache, run_job):
    _, artifact = run_job(sae, config(**SMALL), {"c": cache})
    examples = pq.read_table(io.BytesIO(artifact.read("contexts.parquet"))).to_pylist()
    features = pq.read_table(io.BytesIO(artifact.read("features.parquet"))).to_pydict()
    tokens = cache.tokens
    documents = {line["document"] for line in examples}
    assert 0 < len(documents) < 0.5 * tokens.n_documents
    coder = load(artifact, config(**SMALL))
    held = np.flatnonzero(np.isin(tokens.document_ids[tokens.documents(slice(None))], sorted(documents)))
    z = coder.encode(torch.from_numpy(cache.site("resid.0")[held].astype(np.float32)))
    z = z.mix(torch.eye(32)).detach().numpy()
    for line in examples:
        row = line["row"]
        assert line["token"] == tokens.strings(np.array([row]))[0]
        assert line["left"].endswith(" ") or tokens.positions(np.array([row]))[0] == 0
        assert line["activation"] == pytest.approx(float(z[np.searchsorted(held, row), line["feature"]]), rel=1e-4)
        if line["rank"] == 0 and line["band"] is None:
            assert line["activation"] == features["max_activation"][line["feature"]]
            assert z[:, line["feature"]].max() <= line["activation"] * 1.0001


def load(artifact, chosen):
    artifact.record = msgspec.structs.replace(artifact.record, config=json.loads(canonical(chosen)))
    return sae.load(artifact)


def test_a_reloaded_coder_encodes_bit_for_bit_and_a_second_run_leaves_the_same_weights(cache, run_job, monkeypatch):
    trained = []
    project_ = Coder.project_
    monkeypatch.setattr(Coder, "project_", lambda coder: (project_(coder), trained.append(coder))[0])
    _, artifact = run_job(sae, config(**SMALL), {"c": cache})
    _, again = run_job(sae, config(**SMALL), {"c": cache})
    assert artifact.read("weights.safetensors") == again.read("weights.safetensors")
    assert artifact.read("contexts.parquet") == again.read("contexts.parquet")
    x = torch.from_numpy(cache.site("resid.0")[:500].astype(np.float32))
    before, after = trained[-1].encode(x), load(artifact, config(**SMALL)).encode(x)
    assert torch.equal(before.features_A, after.features_A)
    assert torch.equal(before.values_A, after.values_A)
    assert torch.equal(trained[-1].decode(before), load(artifact, config(**SMALL)).decode(after))


def test_rows_that_are_not_finite_are_refused(make_cache, run_job, world):
    documents, rows = world
    rows = rows.copy()
    rows[7, 3] = np.nan
    cache = make_cache(sites={"resid.0": rows}, documents=documents)
    with pytest.raises(InputError, match="1 rows with NaN or infinite entries"):
        run_job(sae, config(**SMALL), {"c": cache})


def test_one_document_cannot_be_split(make_cache, run_job):
    cache = make_cache(sites={"resid.0": np.ones((3, 4), np.float32)}, documents=[Doc("a b c")])
    with pytest.raises(InputError, match="harvest more documents"):
        run_job(sae, config(**SMALL), {"c": cache})


def test_a_recipe_table_decodes_and_contradictions_name_both_fields():
    table = {"cache": "c", "site": "resid.6", "activation": {"kind": "relu", "l1": 0.3}, "dictionary": {"kind": "free"}}
    chosen = convert(table, sae.Config, "jobs.x")
    assert (chosen.activation, chosen.dictionary) == (sae.Relu(l1=0.3), sae.Free())
    assert sae.reads(chosen)[0].sites == (Site("resid", 6),)
    for wrong, said in [
        ({"width": 16}, "activation.k is 32 but width is 16"),
        ({"warmup": 0.6, "decay": 0.6}, "warmup 0.6 and decay 0.6"),
        ({"width": 0}, "width"),
        ({"held_out": 1.0}, "held_out"),
        ({"activation": {"kind": "topk", "k": 0}}, "activation.k"),
        ({"activation": {"kind": "softmax"}}, "activation"),
        ({"epoch": 3}, "epoch"),
    ]:
        with pytest.raises(InputError, match=said):
            convert({"cache": "c", "site": "resid.6"} | wrong, sae.Config, "jobs.x")


def test_text_that_the_font_lacks_shows_as_a_box():
    assert printable("a\nb$\u4e2d") == "a⏎b$□"


def test_twins_give_the_stability_of_a_study_with_its_start(cache, run_job):
    report, artifact = run_job(sae, config(**SMALL, twins=1), {"c": cache})
    _, alone = run_job(sae, config(**SMALL), {"c": cache})
    metrics = {metric.name: metric.value for metric in report.metrics}
    assert metrics["stabilisation"] == metrics["stability"] - metrics["stability_init"] > 0.1
    assert artifact.read("weights.safetensors") == alone.read("weights.safetensors")
    assert any("seeds 0 to 1" in note for note in report.notes)


def test_candidates_of_one_seed_are_shared_by_twins_and_others_are_their_own(cache, run_job):
    found = {}
    for seed in (None, 0):
        dictionary = sae.Archetypal(candidates=KMeans(n=60, seed=seed))
        report, _ = run_job(sae, config(**{**SMALL, "dictionary": dictionary, "epochs": 1}, twins=1), {"c": cache})
        found[seed] = {metric.name: metric.value for metric in report.metrics}["stability_init"]
    assert found[0] == pytest.approx(1)
    assert found[None] < 0.99


def test_a_crosscoder_and_a_transcoder_run_as_jobs_and_other_tokens_are_refused(make_cache, run_job, world):
    documents, rows = world
    turned = rows @ np.linalg.qr(np.random.default_rng(1).standard_normal((24, 24)))[0][:, :10].astype(np.float32)
    one = make_cache(sites={"resid.0": rows, "mlp.0": turned}, documents=documents)
    other = make_cache(sites={"resid.3": turned}, documents=documents, name="other.words")
    less = make_cache(sites={"resid.3": turned[40:]}, documents=documents[1:], name="less.words")
    shuffled = make_cache(sites={"resid.3": turned}, documents=documents[::-1], name="reversed.words")
    beside = config(
        **SMALL, beside=(sae.Source(site=Site.parse("mlp.0")), sae.Source(site=Site.parse("resid.3"), cache="o"))
    )
    assert [(read.cache, [str(site) for site in read.sites]) for read in sae.reads(beside)] == [
        ("c", ["resid.0", "mlp.0"]),
        ("o", ["resid.3"]),
    ]
    report, artifact = run_job(sae, beside, {"c": one, "o": other})
    assert report.metrics[0].value < 0.3 < report.metrics[0].null
    coder = load(artifact, beside)
    assert coder.blocks == (24, 10, 10)
    to = config(**SMALL, target=sae.Source(site=Site.parse("mlp.0")), skip=True)
    report, artifact = run_job(sae, to, {"c": one})
    metrics = {metric.name: metric.value for metric in report.metrics}
    assert metrics["fvu"] < 0.3
    assert metrics["linear_fvu"] < 0.01  # the target is a turned input
    coder = load(artifact, to)
    x = torch.from_numpy(rows[:9])
    assert coder.decode(coder.encode(x), x).shape == (9, 10)
    for wrong, said in ((less, "have 9600, 9600, 9560 rows|same tokens"), (shuffled, "same tokens")):
        with pytest.raises(InputError, match=said):
            run_job(sae, beside, {"c": one, "o": wrong})


def test_a_coder_of_another_system_is_measured_as_it_is(cache, run_job, tmp_path):
    report, artifact = run_job(sae, config(**SMALL), {"c": cache})
    coder = load(artifact, config(**SMALL))
    for name, data in saelens.exported(coder).items():
        (tmp_path / name).write_bytes(data)
    same = {**SMALL, "dictionary": sae.Free(), "foreign": str(tmp_path)}
    again, left = run_job(sae, config(**same), {"c": cache})
    before, after = ({metric.name: metric.value for metric in one.metrics} for one in (report, again))
    for name in ("fvu", "l0", "dead", "purity", "auroc.topic", "ood"):
        assert after[name] == pytest.approx(before[name], rel=0.02, abs=1e-3), name
    assert "history.parquet" not in left.files
    rows = torch.from_numpy(cache.site("resid.0")[:40].astype(np.float32))
    torch.testing.assert_close(
        load(left, config(**same)).decode(coder.encode(rows)), coder.decode(coder.encode(rows)), rtol=1e-3, atol=1e-3
    )
    for wrong, said in [
        ({"activation": sae.TopK(k=3)}, "set activation to that"),
        ({"width": 64}, "the table says width = 64"),
        ({"foreign": str(tmp_path / "none")}, "no coder that can be read"),
    ]:
        with pytest.raises(InputError, match=said):
            run_job(sae, config(**{**same, **wrong}), {"c": cache})


@pytest.mark.parametrize(
    "fields",
    [
        {"activation": sae.BatchTopK(k=2)},
        {"dictionary": sae.Archetypal(candidates=KMeans(n=60), delta=0.1)},
        {"activation": sae.PAnneal()},
        {"activation": sae.Gated()},
    ],
    ids=lambda fields: type(next(iter(fields.values()))).__name__,
)
def test_an_artifact_of_a_job_comes_back_as_the_coder_that_was_measured(cache, run_job, monkeypatch, fields):
    measured = []
    real = sae.study.measure
    monkeypatch.setattr(
        sae.study, "measure", lambda config, coder, rows: (measured.append(coder), real(config, coder, rows))[1]
    )
    chosen = config(**{**SMALL, "epochs": 1, **fields})
    _, artifact = run_job(sae, chosen, {"c": cache})
    again, x = load(artifact, chosen), torch.from_numpy(cache.site("resid.0")[:200].astype(np.float32))
    for one, other in zip(again.encode(x).active(), measured[0].encode(x).active(), strict=True):
        assert torch.equal(one, other)
    assert {name: array.shape for name, array in again.arrays().items()} == {
        name: array.shape for name, array in measured[0].arrays().items()
    }


def test_a_coder_whose_features_have_all_died_is_reported_as_such(make_cache, world, run_job):
    documents, rows = world
    cache = make_cache(sites={"resid.0": rows}, documents=documents)
    chosen = config(**{**SMALL, "activation": sae.Relu(l1=1e4), "lr": 0.05})
    report, artifact = run_job(sae, chosen, {"c": cache})
    assert next(metric.value for metric in report.metrics if metric.name == "dead") == 1
    assert "features.html" in artifact.files
    assert any(note.startswith("No absorption") for note in report.notes)


def test_a_table_of_another_model_is_refused_before_training(make_cache, world, run_job, monkeypatch):
    documents, rows = world
    cache = make_cache(sites={"resid.0": rows}, documents=documents)
    vocabulary = make_cache(sites={"unembed": rows[:2]}, documents=[Doc("a"), Doc("b")])
    monkeypatch.setattr("jobs.sae.study.train", None)
    with pytest.raises(InputError, match="is of another model"):
        run_job(sae, config(**SMALL, unembed="v"), {"c": cache, "v": vocabulary})
