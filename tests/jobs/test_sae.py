"""Sparse autoencoders: the sparse products, the parts, a planted dictionary, the metrics, and the job."""

import io
import json

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from conftest import Doc
from scipy.stats import rankdata
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score

from jobs import sae
from jobs.sae import codes
from jobs.sae.coder import Coder, start
from jobs.sae.codes import Dense, Sparse, largest, pick
from jobs.sae.dictionaries import random_atoms
from jobs.sae.features import DocumentMeans, Leaders
from jobs.sae.figures import printable
from jobs.sae.losses import auxiliary, total
from jobs.sae.metrics import Tally, Tellers, auroc, baselines, fvu, principal_directions, purity
from jobs.sae.train import pace, train
from storage import InputError, RunError, Site
from storage.moments import measure
from storage.value import canonical, convert

TOPK, RELU = sae.TopK(k=4), sae.Relu(l1=0.2)
PARTS = [(TOPK, sae.UnitNorm()), (TOPK, sae.Free()), (RELU, sae.UnitNorm()), (RELU, sae.Free())]


def config(**fields):
    return sae.Config(**({"cache": "c", "site": Site("resid", 0), "width": 64, "activation": TOPK} | fields))


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# products of sparse codes


@pytest.mark.parametrize("gathers", [True, False])
def test_sparse_codes_give_the_values_and_gradients_of_the_dense_formula(gathers, monkeypatch):
    monkeypatch.setattr(codes, "gathers", lambda like: gathers)  # False is the way of a GPU
    leaves = [randn(*shape, seed=n).double() for n, shape in enumerate([(50, 12), (30, 12), (30,), (30, 12)])]
    target = randn(50, 12, seed=4).double()

    def gradients(rebuild):
        x, W, b, V = (leaf.clone().requires_grad_() for leaf in leaves)
        loss = (rebuild(x, W, b, V) - target).square().sum()
        return [loss, *torch.autograd.grad(loss, [x, W, b, V])]

    def sparse(x, W, b, V):
        values, features = pick(x, W, b, 5)
        return Sparse(values.relu(), features).mix(V)

    def dense(x, W, b, V):
        scores = x @ W.T + b
        values, features = scores.topk(5)
        return torch.zeros_like(scores).scatter(1, features, values.relu()) @ V

    for found, wanted in zip(gradients(sparse), gradients(dense), strict=True):
        torch.testing.assert_close(found, wanted)


def test_of_equal_scores_the_lower_index_is_kept_and_never_more_than_k():
    scores = torch.tensor([[1.0, 3, 3, 3, 0], [0, 0, 0, 0, 0], [5, 4, 3, 2, 1]])
    assert largest(scores, 2).tolist() == [[1, 2], [0, 1], [0, 1]]
    assert largest(scores, 5).tolist() == [[0, 1, 2, 3, 4]] * 3


@pytest.mark.parametrize("k", [1, 7, 32])
def test_the_largest_are_those_of_a_full_sort(k):
    scores = randn(64, 32)
    wanted = scores.argsort(dim=1, descending=True)[:, :k].sort(dim=1).values
    assert torch.equal(largest(scores, k), wanted)


def test_active_entries_and_fired_features_are_the_non_zero_ones():
    z = torch.tensor([[0.0, 2, 0, 1], [0, 0, 0, 3]])
    sparse = Sparse(torch.tensor([[2.0, 1], [0, 3]]), torch.tensor([[1, 3], [0, 3]]))
    for kind in (Dense(z), sparse):
        assert [part.tolist() for part in kind.active()] == [[0, 0, 1], [1, 3, 3], [2, 1, 3]]
        assert kind.fired(4).tolist() == [False, True, False, True]


# a planted dictionary


@pytest.fixture(scope="module")
def planted():
    """20,000 rows of 40 unit atoms in 32 dimensions, 3 active on average, around an offset: (rows, atoms)."""
    rng = np.random.default_rng(0)
    atoms = rng.standard_normal((40, 32))
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    strengths = (rng.random((20_000, 40)) < 3 / 40) * rng.uniform(0.5, 1.5, (20_000, 40))
    rows = strengths @ atoms + 0.02 * rng.standard_normal((20_000, 32)) + 3
    return torch.from_numpy(rows.astype(np.float32)), torch.from_numpy(atoms.astype(np.float32))


def fit(rows, chosen):
    training, probe = rows[:-2000], rows[-2000:]
    coder = start(measure(training.numpy()), chosen.width, chosen.activation, chosen.dictionary, chosen.seed)
    order = torch.Generator().manual_seed(chosen.seed)
    batches = (
        training[part]
        for _ in range(chosen.epochs)
        for part in torch.randperm(len(training), generator=order).split(chosen.batch)
    )
    return coder, train(coder, chosen, batches, chosen.epochs * len(training), probe)


def recovery(coder, atoms):
    found = torch.nn.functional.normalize(coder.W_dec_FD.detach(), dim=1)
    return float((atoms @ found.T).max(1).values.mean())


@pytest.mark.parametrize(("activation", "dictionary"), PARTS)
def test_a_planted_dictionary_is_recovered(planted, activation, dictionary):
    rows, atoms = planted
    chosen = config(activation=activation, dictionary=dictionary, batch=512, epochs=12)
    coder, history = fit(rows, chosen)
    assert recovery(coder, atoms) >= 0.9
    assert recovery(start(measure(rows.numpy()), 64, activation, dictionary), atoms) < 0.6
    assert history[-1].held_out_fvu < 0.2 < 0.5 < history[0].held_out_fvu
    assert history[-1].held_out_fvu == pytest.approx(history[-1].fvu, rel=0.2)
    if dictionary == sae.UnitNorm():
        torch.testing.assert_close(coder.W_dec_FD.norm(dim=1), torch.ones(64))


def test_the_same_seed_gives_the_same_weights_and_another_gives_others(planted):
    rows, _ = planted
    first, again, other = (fit(rows[:4000], config(epochs=1, seed=seed))[0].arrays() for seed in (1, 1, 2))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["W_dec"], other["W_dec"])


def test_a_loss_that_is_not_finite_stops_the_training_and_says_when(planted):
    rows, _ = planted
    with pytest.raises(RunError, match="the loss is nan after"), np.errstate(all="ignore"):
        fit(rows[:6000], config(lr=1e30, dictionary=sae.Free(), epochs=3))


def test_the_learning_rate_rises_stays_and_falls():
    assert [pace(at, 0.2, 0.5) for at in (0, 0.1, 0.2, 0.5, 0.75, 1)] == [0, 0.5, 1, 1, 0.5, 0]
    assert pace(0.0, 0, 0) == pace(1.0, 0, 0) == 1


# losses and constraints


def test_the_relu_loss_is_the_squared_error_and_the_length_weighted_l1(planted):
    rows, _ = planted
    coder = start(measure(rows.numpy()), 50, sae.Relu(l1=0.3), sae.Free())
    coder.W_dec_FD.data *= 2
    x = rows[:100] * coder.scale - coder.b_dec_D
    z = (x @ coder.W_enc_FD.T + coder.b_enc_F).relu()
    error = (x - z @ coder.W_dec_FD).square().mean()
    wanted = error + 0.3 * (z * coder.W_dec_FD.norm(dim=1)).sum(1).mean() / 32**0.5
    loss, _, found = total(coder, rows[:100], torch.zeros(50, dtype=torch.bool), sae.AuxK())
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(found, error.detach())


def test_the_auxiliary_loss_is_what_dead_features_leave_of_the_residual(planted):
    rows, _ = planted
    coder = start(measure(rows.numpy()), 50, TOPK, sae.UnitNorm())
    x, residual = rows[:100] - 3, randn(100, 32)
    dead = torch.arange(50) % 2 == 0
    scores = (x @ coder.W_enc_FD.T).masked_fill(~dead, -torch.inf)
    kept = torch.zeros_like(scores).scatter(1, scores.topk(16).indices, 1.0)
    rebuilt = torch.where(kept > 0, scores.relu(), 0.0) @ coder.W_dec_FD
    wanted = (residual - rebuilt).square().sum() / (residual - residual.mean(0)).square().sum()
    torch.testing.assert_close(auxiliary(coder, x, residual, dead), wanted)


def test_nothing_is_added_while_no_feature_is_dead(planted):
    rows, _ = planted
    coder = start(measure(rows.numpy()), 50, TOPK, sae.UnitNorm())
    none = torch.zeros(50, dtype=torch.bool)
    with_aux, without = (total(coder, rows[:100], none, sae.AuxK(weight=weight))[0] for weight in (1.0, 0.0))
    assert with_aux == without


@pytest.mark.parametrize(("weight", "alive"), [(1 / 32, True), (0.0, False)])
def test_dead_features_are_revived_by_the_auxiliary_loss_and_only_by_it(planted, weight, alive):
    rows, _ = planted
    chosen = config(batch=512, epochs=6, aux=sae.AuxK(weight=weight, dead_after=2000))
    coder = start(measure(rows.numpy()), 64, TOPK, sae.UnitNorm())
    coder.b_enc_F.data[32:] = -0.3
    batches = list(rows.split(512)) * 6
    history = train(coder, chosen, batches, 6 * len(rows), rows[:1000])
    assert (history[-1].dead < 0.1) == alive
    assert max(point.dead for point in history) >= 0.4


def test_unit_norm_drops_the_gradient_along_an_atom_and_nothing_else():
    atoms, gradient = random_atoms(9, 5, 0), randn(9, 5)
    across = gradient.clone()
    sae.UnitNorm().project_gradient_(atoms, across)
    torch.testing.assert_close((across * atoms).sum(1), torch.zeros(9), atol=1e-6, rtol=0)
    along = gradient - across
    torch.testing.assert_close(along, (along * atoms).sum(1, keepdim=True) * atoms)


# metrics


def test_fvu_is_about_the_mean_of_each_dimension():
    x = randn(500, 6) + torch.arange(6) * 100
    x_hat = x + 0.5 * randn(500, 6, seed=1)
    centred = (x - x.mean(0)).double()
    assert fvu(x, x_hat) == pytest.approx(float((x - x_hat).square().sum() / centred.square().sum()), rel=1e-4)
    assert fvu(x, x.mean(0).expand_as(x)) == pytest.approx(1, rel=1e-6)


def test_a_tally_over_batches_is_the_metric_of_all_rows(planted):
    rows, _ = planted
    coder = start(measure(rows.numpy()), 50, TOPK, sae.UnitNorm())
    coder.b_enc_F.data[:10] = -100
    tally = Tally(coder)
    with torch.no_grad():
        for x in rows[:1000].split(300):
            tally.add(x, coder.encode(x))
        found = coder.encode(rows[:1000])
        z = torch.zeros(1000, 50).scatter(1, found.features_BK, found.values_BK)
        assert tally.fvu == pytest.approx(fvu(rows[:1000], coder.decode(found)), rel=1e-6)
    assert tally.l0 == pytest.approx(float((z != 0).sum(1).float().mean()), rel=1e-9)
    np.testing.assert_allclose(tally.density, (z != 0).double().mean(0).numpy())
    assert (tally.density[:10] == 0).all()


def test_the_baselines_are_pca_and_a_random_dictionary_at_its_best_scale(planted):
    rows, _ = planted
    training, held = rows[:3000], rows[3000:5000]
    mean = training.mean(0)
    coder = start(measure(training.numpy()), 50, TOPK, sae.UnitNorm())
    directions = principal_directions(training.split(700), mean)[:5]
    random_fvu, pca_fvu = baselines(held.split(300), coder, directions, mean, 5, seed=7)
    reference = PCA(5).fit(training.numpy())
    by_pca = reference.inverse_transform(reference.transform(held.numpy()))
    assert pca_fvu == pytest.approx(fvu(held, torch.from_numpy(by_pca)), rel=1e-4)
    atoms = random_atoms(50, 32, 7)
    values, features = ((held - mean) @ atoms.T).topk(5)
    rebuilt = torch.zeros(2000, 50).scatter(1, features, values.relu()) @ atoms
    scales = torch.linspace(0, 2, 2001)
    best = min(fvu(held, mean + scale * rebuilt) for scale in scales)
    assert random_fvu == pytest.approx(best, abs=1e-4)


def test_auroc_is_that_of_scikit_learn_for_every_feature_and_value():
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 4, (80, 3)).astype(float), rng.integers(0, 3, 80)
    positive = labels[:, None] == np.arange(3)
    wanted = [[roc_auc_score(positive[:, v], scores[:, f]) for f in range(3)] for v in range(3)]
    np.testing.assert_allclose(auroc(rankdata(scores, axis=0), positive), wanted)


def test_the_feature_that_tells_a_label_is_found_and_none_where_labels_are_shuffled():
    rng = np.random.default_rng(0)
    labels = rng.choice(["calm", "glad", "sad"], 600)
    scores = rng.standard_normal((600, 50))
    scores[labels == "glad", 17] += 3
    scores[labels == "sad", 31] += 3
    tellers = Tellers(scores, seed=0)
    features, areas = tellers.find(labels)
    assert features[1:].tolist() == [17, 31]
    assert areas[1:].min() > 0.95
    assert np.mean([tellers.find(rng.permutation(labels))[1] for _ in range(20)]) == pytest.approx(0.5, abs=0.03)


def test_purity_is_the_share_of_the_commonest_token():
    assert purity(np.array([[4, 4, 4, 4], [1, 2, 1, 3], [5, 6, 7, 8]])).tolist() == [1, 0.5, 0.25]


def test_leaders_are_those_of_a_full_sort_whatever_the_order_of_batches():
    rng = np.random.default_rng(0)
    z = rng.integers(0, 6, (300, 12)).astype(np.float32)
    z[:, 3] = 0
    z[5:, 4] = 0
    z[0, 4] = 1
    leaders = Leaders(12, 7)
    for part in np.array_split(rng.permutation(300), 6):
        leaders.add(part + 1000, Dense(torch.from_numpy(z[part])))
    for feature in range(12):
        wanted = sorted((-z[row, feature], row + 1000) for row in range(300) if z[row, feature] > 0)[:7]
        rows, values = leaders.of(feature)
        assert list(zip(-values, rows, strict=True)) == wanted
    features, rows = leaders.full()
    assert set(features) == {0, 1, 2, *range(5, 12)} | ({4} if (z[:, 4] > 0).sum() >= 7 else set())
    assert rows[0].tolist() == leaders.of(0)[0].tolist()


def test_means_by_document_leave_other_documents_out():
    z = torch.arange(12.0).reshape(6, 2)
    means = DocumentMeans(np.array([1, 3]), 4, 2)
    means.add(np.array([1, 1, 0]), Dense(z[:3]))
    means.add(np.array([3, 1, 2]), Dense(z[3:]))
    np.testing.assert_allclose(means.means, [z[[0, 1, 4]].mean(0).tolist(), z[3].tolist()])


# the job

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
    assert list(metrics) == ["fvu", "pca_fvu", "l0", "dead", "purity", "auroc.topic"]
    assert metrics["fvu"].value < 0.2 < metrics["fvu"].null
    assert metrics["fvu"].value < metrics["pca_fvu"].value
    assert 1 <= metrics["l0"].value <= 2
    assert metrics["purity"].value > 0.8 > 0.5 > metrics["purity"].null
    assert metrics["auroc.topic"].value > 0.95
    assert metrics["auroc.topic"].null == pytest.approx(0.5, abs=0.15)
    assert {file.name for file in artifact.record.files} == {
        "weights.safetensors",
        "features.parquet",
        "examples.parquet",
        "figures/training.svg",
        "figures/features.svg",
        "figures/contexts.svg",
    }


def test_examples_are_the_strongest_held_out_tokens_with_their_text(cache, run_job):
    _, artifact = run_job(sae, config(**SMALL), {"c": cache})
    examples = pq.read_table(io.BytesIO(artifact.read("examples.parquet"))).to_pylist()
    features = pq.read_table(io.BytesIO(artifact.read("features.parquet"))).to_pydict()
    tokens = cache.tokens
    documents = {line["document"] for line in examples}
    assert 0 < len(documents) < 0.5 * tokens.n_documents
    coder = load(artifact, config(**SMALL))
    held = np.flatnonzero(np.isin(tokens.document_ids[tokens.documents(slice(None))], sorted(documents)))
    z = coder.encode(torch.from_numpy(cache.site("resid.0")[held].astype(np.float32)))
    z = torch.zeros(len(held), 32).scatter(1, z.features_BK, z.values_BK).detach().numpy()
    for line in examples:
        row = line["row"]
        assert line["token"] == tokens.strings(np.array([row]))[0]
        assert line["left"].endswith(" ") or tokens.positions(np.array([row]))[0] == 0
        assert line["activation"] == pytest.approx(float(z[np.searchsorted(held, row), line["feature"]]), rel=1e-4)
        if line["rank"] == 0:
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
    assert artifact.read("examples.parquet") == again.read("examples.parquet")
    x = torch.from_numpy(cache.site("resid.0")[:500].astype(np.float32))
    before, after = trained[-1].encode(x), load(artifact, config(**SMALL)).encode(x)
    assert torch.equal(before.features_BK, after.features_BK)
    assert torch.equal(before.values_BK, after.values_BK)
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
