"""Probes: planted answers, references from scikit-learn, and controls that catch a leak through documents."""

import io

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from conftest import Doc
from safetensors.numpy import load
from scipy.special import softmax
from sklearn import linear_model, metrics

from jobs import probe
from jobs.core.splits import split_documents
from jobs.probe import evaluate
from jobs.probe.examples import EveryToken, LastToken, MeanToken, draw, read_blocks
from jobs.probe.logistic import design, fit_logistic, minimise
from jobs.probe.ridge import Gram, Linear, ridge_path
from jobs.probe.targets import shuffled, word_starts
from storage.errors import InputError
from storage.value import convert

D = 24
TOPICS = ("art", "law", "sea", "war")


def config(**fields):
    return convert({"cache": "c", **fields}, probe.Config, "jobs.x.")


def column(artifact, table, **where):
    rows = pq.read_table(io.BytesIO(artifact.read(f"{table}.parquet"))).to_pylist()
    return [row for row in rows if all(row[key] == value for key, value in where.items())]


def metric(report, name):
    return next(each for each in report.metrics if each.name == name)


def planted(n_documents=160, rng=None, noise=0.6):
    """Documents with a topic and a mood number; `resid.0` shows neither, `resid.1` both, along known directions."""
    rng = rng or np.random.default_rng(0)
    lengths = rng.integers(8, 24, n_documents)
    topics, moods = rng.integers(0, len(TOPICS), n_documents), rng.normal(size=n_documents)
    basis, _ = np.linalg.qr(rng.normal(size=(D, len(TOPICS) + 1)))
    words = np.array(["the", "Ship", "sails", "On", "water"])
    documents = [
        Doc(" ".join(rng.choice(words, n)), {"topic": TOPICS[topic], "mood": float(mood)})
        for n, topic, mood in zip(lengths, topics, moods, strict=True)
    ]
    of_row = np.repeat(np.arange(n_documents), lengths)
    blank_ND = noise * rng.normal(size=(len(of_row), D)) + 5.0
    shown_ND = 2 * basis.T[topics[of_row]] + moods[of_row, None] * basis[:, -1]
    return documents, {"resid.0": blank_ND, "resid.1": blank_ND + shown_ND}, basis


# fits


def fit_data(n=700, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, D)) * np.logspace(0, -1.5, D) + 3.0
    return x, x @ rng.normal(size=(D, 3)) + rng.normal(size=(n, 3))


def gram_of(x, y, step=97):
    gram = Gram(x.shape[1], y.shape[1])
    for a in range(0, len(x), step):
        gram.add(torch.from_numpy(x[a : a + step]), torch.from_numpy(y[a : a + step]))
    return gram


def test_ridge_is_scikit_learns_to_1e_8():
    x, y = fit_data()
    penalties = (1e-6, 1e-2, 1.0)
    unit = np.trace(np.cov(x.T, bias=True)) * len(x) / D
    for penalty, fit in zip(penalties, ridge_path(gram_of(x, y), penalties), strict=True):
        reference = linear_model.Ridge(alpha=penalty * unit, solver="cholesky").fit(x, y)
        np.testing.assert_allclose(fit.W_DK.numpy(), reference.coef_.T, atol=1e-8)
        np.testing.assert_allclose(fit.b_K.numpy(), reference.intercept_, atol=1e-8)


def test_sums_give_the_squared_error_of_any_map_and_do_not_depend_on_blocks():
    x, y = fit_data()
    rng = np.random.default_rng(1)
    fit = Linear(torch.from_numpy(rng.normal(size=(D, 3))), torch.from_numpy(rng.normal(size=3)))
    direct = ((y - x @ fit.W_DK.numpy() - fit.b_K.numpy()) ** 2).sum(0)
    for step in (1, 64, 10_000):
        np.testing.assert_allclose(gram_of(x, y, step).squared_error(fit).numpy(), direct, rtol=1e-10)


def classes_data(n, n_classes, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, D)) * np.logspace(0, -1, D) + 2.0
    scores = (x - 2.0) @ rng.normal(size=(D, n_classes)) + rng.gumbel(size=(n, n_classes))
    return x, scores.argmax(1)


@pytest.mark.parametrize("n_classes", [2, 3, 7])
def test_logistic_is_scikit_learns(n_classes):
    x, y = classes_data(900, n_classes)
    penalty = 1e-2
    l2 = penalty * np.trace(np.cov(x.T, bias=True)) / D
    start = Linear(torch.zeros(D, n_classes).double(), torch.zeros(n_classes).double())
    (fit,) = minimise(design(torch.from_numpy(x.copy())), torch.from_numpy(y)[None], [start], penalty, 1e-12)
    # Two classes are one logit there: the difference of ours, whose halves cost half as much.
    strength = 1 / (len(x) * l2) * (2 if n_classes == 2 else 1)
    reference = linear_model.LogisticRegression(C=strength, solver="newton-cg", tol=1e-10, max_iter=5000).fit(x, y)
    weights, bias = fit.W_DK.numpy().T, fit.b_K.numpy()
    if n_classes == 2:
        weights, bias = weights[1:] - weights[:1], bias[1:] - bias[:1]
    np.testing.assert_allclose(weights, reference.coef_, atol=1e-5)
    np.testing.assert_allclose(bias - bias.mean(), reference.intercept_ - reference.intercept_.mean(), atol=1e-5)


def test_problems_fitted_together_are_as_if_alone_and_single_precision_suffices():
    x, y = classes_data(900, 3)
    _, other = classes_data(900, 5, seed=4)
    answers = torch.from_numpy(np.stack([y, other]))
    x = torch.from_numpy(x)

    def fits(dtype, which, tolerance):
        train = design(x[:600].to(dtype, copy=True))
        widths = [(3, 5)[p] for p in which]
        mine = answers[list(which)]
        return fit_logistic(train, mine[:, :600], x[600:].to(dtype), mine[:, 600:], widths, (1e-3, 1e-1), tolerance)

    together = fits(torch.float64, (0, 1), 1e-10)
    alone = fits(torch.float64, (0,), 1e-10) + fits(torch.float64, (1,), 1e-10)
    rough = fits(torch.float32, (0, 1), 1e-4)
    for a, b, c in zip(together, alone, rough, strict=True):
        assert a.penalty == b.penalty == c.penalty
        torch.testing.assert_close(a.fit.W_DK, b.fit.W_DK, atol=1e-5, rtol=0)
        torch.testing.assert_close(a.fit.W_DK, c.fit.W_DK, atol=2e-2, rtol=0)


def test_logistic_takes_the_penalty_with_the_least_validation_loss():
    x, y = classes_data(260, 3)
    x, y = torch.from_numpy(x), torch.from_numpy(y)
    penalties = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    train = design(x[:130].clone())
    start = [Linear(torch.zeros(D, 3).double(), torch.zeros(3).double())]
    losses = []
    for penalty in penalties:
        (fit,) = minimise(train, y[None, :130], start, penalty, 1e-8)
        losses.append(float(torch.nn.functional.cross_entropy(x[130:] @ fit.W_DK + fit.b_K, y[130:])))
    (chosen,) = fit_logistic(train, y[None, :130], x[130:], y[None, 130:], [3], penalties, 1e-8)
    assert chosen.penalty == penalties[int(np.argmin(losses))]
    assert chosen.penalty not in (penalties[0], penalties[-1])  # or the test would say little


# measures


def scored(n=4000, n_classes=5, seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, n_classes)) * 1.5
    y = (logits + rng.gumbel(size=logits.shape)).argmax(1)  # so softmax(logits) is calibrated by construction
    return logits, y


@pytest.mark.parametrize("n_classes", [2, 5])
def test_measures_are_scikit_learns(n_classes):
    logits, y = scored(n_classes=n_classes)
    probability = softmax(logits, axis=1)
    found, confusion, _ = evaluate.class_metrics(logits, probability, y, 1.0)
    predicted = logits.argmax(1)
    assert (confusion == metrics.confusion_matrix(y, predicted)).all()
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(y, predicted))
    assert found["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(y, predicted))
    assert found["log_loss"] == pytest.approx(metrics.log_loss(y, probability))
    areas = [metrics.roc_auc_score(y == c, logits[:, c]) for c in range(n_classes)]
    expected = np.mean(areas) if n_classes > 2 else metrics.roc_auc_score(y, logits[:, 1] - logits[:, 0])
    assert found["auroc"] == pytest.approx(expected)


def test_r2_and_accuracy_from_documents_are_those_of_their_examples():
    rng = np.random.default_rng(0)
    y, owner = rng.normal(size=500) + 3, rng.integers(0, 20, 500)
    guess = y + rng.normal(size=500)
    assert evaluate.r2_of(evaluate.number_sums(guess, y, owner, 20).sum(0)) == pytest.approx(metrics.r2_score(y, guess))
    right = (rng.random(500) < 0.3).astype(float)
    assert evaluate.accuracy_of(evaluate.class_sums(right, owner, 20).sum(0)) == pytest.approx(right.mean())


def test_a_calibrated_model_has_a_small_calibration_error_and_an_overconfident_one_is_mended():
    logits, y = scored(n=40_000)
    assert evaluate.reliability(softmax(logits, axis=1), y).error < 0.01
    overconfident = 3 * logits
    assert evaluate.reliability(softmax(overconfident, axis=1), y).error > 0.1
    temperature = evaluate.fit_temperature(overconfident, y)
    assert temperature == pytest.approx(3, rel=0.05)
    assert evaluate.reliability(softmax(overconfident / temperature, axis=1), y).error < 0.01


def test_calibration_error_by_hand():
    probability = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.4, 0.6]])
    found = evaluate.reliability(probability, np.array([0, 1, 1, 1]))
    np.testing.assert_allclose(found.confidence_Q, [0.6, 0.9])
    np.testing.assert_allclose(found.accuracy_Q, [1.0, 0.5])
    assert found.error == pytest.approx((0.4 + 0.4) / 2)


def test_intervals_are_over_documents_not_rows():
    """Rows of a document all right or all wrong: 30 documents know no more for having 100 rows each."""
    rng = np.random.default_rng(0)
    document_right = (rng.random(30) < 0.6).astype(float)
    sums = evaluate.class_sums(np.repeat(document_right, 100), np.repeat(np.arange(30), 100), 30)
    ((low, high),) = evaluate.intervals([sums], [evaluate.accuracy_of], seed=0)
    spread = np.sqrt(document_right.mean() * (1 - document_right.mean()) / 30)
    assert (high - low) == pytest.approx(2 * 1.96 * spread, rel=0.15)
    assert low < document_right.mean() < high


# shuffles and properties


def test_shuffling_permutes_whole_documents():
    rng = np.random.default_rng(0)
    documents = np.repeat(np.arange(50), rng.integers(1, 9, 50))
    answers = rng.integers(0, 1000, 50)
    once = shuffled(answers[documents], documents, rng)
    of_document = [set(once[documents == d]) for d in range(50)]
    assert all(len(each) == 1 for each in of_document)
    assert sorted(next(iter(each)) for each in of_document) == sorted(answers)
    assert (np.array([next(iter(each)) for each in of_document]) != answers).mean() > 0.8


def test_shuffling_a_property_keeps_runs_and_breaks_position():
    rng = np.random.default_rng(0)
    documents = np.repeat(np.arange(200), 40)
    position = np.tile(np.arange(40), 200)
    once = shuffled(position, documents, rng).reshape(200, 40)
    assert (np.diff(once, axis=1) % 40 == 1).all()  # each document holds another's answers, in their order
    assert abs(np.corrcoef(once.ravel(), position)[0, 1]) < 0.05


@pytest.mark.parametrize(
    ("texts", "apart"),
    [
        (["the", "sail", "or", "'s", "ship"], [1, 1, 0, 0, 1]),  # white space belongs to no token
        (["the", " sail", "or", "'s", " ship"], [1, 0, 0, 0, 0]),  # to the token after it
        (["the ", "sail", "or", "'s ", "ship"], [1, 0, 0, 0, 0]),  # to the token before it
    ],
)
def test_word_starts_under_every_convention_of_white_space(texts, apart):
    texts = np.array(texts, dtype=object)
    before = np.array(["", *texts[:-1]], dtype=object)
    assert word_starts(texts, before, np.array(apart, bool)).tolist() == [True, True, False, False, True]


def test_special_tokens_begin_no_word_but_the_token_after_one_does():
    texts = np.array(["", "sail", "or", ""], dtype=object)
    before = np.array(["", *texts[:-1]], dtype=object)
    assert word_starts(texts, before, np.zeros(4, bool)).tolist() == [False, True, False, False]


# examples


def test_poolings_are_the_states_they_say(make_cache):
    documents, sites, _ = planted(n_documents=30)
    cache = make_cache(sites={"resid.1": sites["resid.1"]}, documents=documents)
    acts, tokens = cache.site("resid.1"), cache.tokens
    rows = [tokens.document_rows(d) for d in range(30)]
    stored = acts[:]
    expected = {
        EveryToken(skip=2): np.concatenate([stored[each[2:]] for each in rows]),
        LastToken(): np.stack([stored[each[-1]] for each in rows]),
        MeanToken(skip=1): np.stack([stored[each[1:]].mean(0) for each in rows]),
    }
    for pooling, x in expected.items():
        examples = draw(tokens, cache.n_rows, pooling, 10_000, 0)
        found = np.concatenate([block.numpy() for _, block in read_blocks(acts, examples, "cpu")])
        np.testing.assert_allclose(found, x, rtol=1e-5)
        assert len(examples.documents_N) == len(x)
    assert draw(tokens, cache.n_rows, MeanToken(), 10_000, 0).documents_N.tolist() == list(range(30))


def test_means_do_not_depend_on_the_block(make_cache, monkeypatch):
    documents, sites, _ = planted(n_documents=30)
    cache = make_cache(sites={"resid.1": sites["resid.1"]}, documents=documents)
    examples = draw(cache.tokens, cache.n_rows, MeanToken(), 10_000, 0)

    def read():
        blocks = list(read_blocks(cache.site("resid.1"), examples, "cpu"))
        assert [at.start for at, _ in blocks] == [0, *(at.stop for at, _ in blocks)][:-1]
        return len(blocks), torch.cat([x for _, x in blocks])

    whole = read()
    monkeypatch.setattr("jobs.probe.examples._BLOCK", 40)
    parts = read()
    assert (whole[0], parts[0] > 5) == (1, True)
    torch.testing.assert_close(whole[1], parts[1], rtol=1e-6, atol=1e-6)


def test_a_draw_is_even_seeded_and_at_most_the_cap(make_cache):
    documents, sites, _ = planted(n_documents=60)
    tokens = make_cache(sites={"resid.1": sites["resid.1"]}, documents=documents).tokens
    drawn = draw(tokens, tokens.n_rows, EveryToken(skip=0), 300, 7)
    assert len(drawn) == 300
    assert len(set(drawn.rows_R.tolist())) == 300
    assert (drawn.rows_R == draw(tokens, tokens.n_rows, EveryToken(skip=0), 300, 7).rows_R).all()
    assert drawn.rows_R.mean() == pytest.approx(tokens.n_rows / 2, rel=0.15)


# the job


@pytest.mark.parametrize("method", ["ridge", "logistic"])
def test_planted_topics_are_read_where_they_are_and_nowhere_else(make_cache, run_job, method):
    documents, sites, basis = planted()
    cache = make_cache(sites=sites, documents=documents)
    report, artifact = run_job(
        probe, config(targets=["topic"], method={"kind": method}, shuffles=4), caches={"c": cache}
    )
    accuracy = metric(report, "topic.accuracy")
    assert accuracy.value > 0.95
    assert "resid.1" in accuracy.about
    assert accuracy.null == pytest.approx(0.25, abs=0.12)
    (blank,) = column(artifact, "metrics", site="resid.0", metric="accuracy")
    assert blank["value"] == pytest.approx(blank["null"], abs=0.12)
    assert blank["low"] <= blank["value"] <= blank["high"]
    weights = load(artifact.read("directions.safetensors"))["resid.1/topic/weight"]
    centred = basis[:, :4].T - basis[:, :4].mean(1)
    cosines = (weights * centred).sum(1) / np.linalg.norm(weights, axis=1) / np.linalg.norm(centred, axis=1)
    assert cosines.min() > 0.95


@pytest.mark.parametrize(("method", "targets"), [("ridge", ["topic", "mood"]), ("logistic", ["topic"])])
def test_states_that_are_all_the_same_tell_nothing(make_cache, run_job, method, targets):
    """As the embeddings of last tokens do where every document ends with a full stop."""
    documents, sites, _ = planted()
    sites["embed"] = np.ones(D) * np.ones((len(sites["resid.0"]), 1))
    sites["resid.2"] = np.zeros_like(sites["embed"])
    cache = make_cache(sites=sites, documents=documents)
    _, artifact = run_job(probe, config(targets=targets, method={"kind": method}), caches={"c": cache})
    for site in ("embed", "resid.2"):
        (topic,) = column(artifact, "metrics", site=site, target="topic", metric="accuracy")
        assert topic["value"] == topic["baseline"]
        for mood in column(artifact, "metrics", site=site, target="mood", metric="r2"):
            assert mood["value"] == pytest.approx(0, abs=0.1)


def test_a_planted_number_is_regressed_along_its_direction(make_cache, run_job):
    documents, sites, basis = planted()
    cache = make_cache(sites=sites, documents=documents)
    report, artifact = run_job(probe, config(targets=["mood"]), caches={"c": cache})
    r2 = metric(report, "mood.r2")
    assert r2.value > 0.6
    assert r2.null < 0.05
    weight = load(artifact.read("directions.safetensors"))["resid.1/mood/weight"][0]
    assert weight @ basis[:, -1] / np.linalg.norm(weight) > 0.95


def test_directions_reproduce_the_reported_accuracy_from_stored_rows(make_cache, run_job):
    documents, sites, _ = planted()
    cache = make_cache(sites=sites, documents=documents, dtype="bfloat16")
    _, artifact = run_job(probe, config(targets=["topic"], shuffles=0), caches={"c": cache})
    saved = load(artifact.read("directions.safetensors"))
    tokens = cache.tokens
    names = [line["class"] for line in column(artifact, "outputs", target="topic")]
    test = split_documents(tokens.document_ids).at(tokens.documents(slice(None))).test & (
        tokens.positions(slice(None)) > 0
    )
    for site in ("resid.0", "resid.1"):
        x = cache.site(site)[:].astype(np.float32)[test]
        answers = (x @ saved[f"{site}/topic/weight"].T + saved[f"{site}/topic/bias"]).argmax(1)
        right = np.array(names)[answers] == tokens.label("topic")[tokens.documents(np.flatnonzero(test))]
        (line,) = column(artifact, "metrics", site=site, metric="accuracy")
        assert line["value"] == pytest.approx(right.mean(), abs=1e-3)


@pytest.mark.parametrize("method", ["ridge", "logistic"])
def test_a_label_that_only_names_its_document_is_not_decodable(make_cache, run_job, method):
    """Rows of a document are all but equal and its label is a coin: a split by row would look perfect."""
    rng = np.random.default_rng(0)
    n, length, width = 300, 5, 320
    coin = rng.integers(0, 2, n)
    x = np.repeat(rng.normal(size=(n, width)), length, axis=0) + 0.01 * rng.normal(size=(n * length, width))
    documents = [Doc(" ".join(["word"] * length), {"coin": ("heads", "tails")[c]}) for c in coin]
    y = np.repeat(coin, length)
    mine = rng.random(len(y)) < 0.7
    by_row = linear_model.RidgeClassifier().fit(x[mine], y[mine]).score(x[~mine], y[~mine])
    assert by_row > 0.95
    cache = make_cache(sites={"resid.0": x}, documents=documents)
    report, _ = run_job(probe, config(targets=["coin"], method={"kind": method}), caches={"c": cache})
    accuracy = metric(report, "coin.accuracy")
    assert accuracy.value < 0.65
    assert abs(accuracy.value - accuracy.null) < 0.15


def test_token_properties_are_probed_beside_labels(make_cache, run_job):
    documents, sites, _ = planted()
    words = np.concatenate([doc.text.split() for doc in documents])
    kinds = {word: n for n, word in enumerate(sorted(set(words)))}
    sites["embed"] = np.eye(D)[[kinds[word] for word in words]] + 0.1 * np.random.default_rng(1).normal(
        size=(len(words), D)
    )
    cache = make_cache(sites=sites, documents=documents)
    targets = ["topic", *({"kind": kind} for kind in ("capitalised", "length", "position"))]
    targets.append({"kind": "token_id", "commonest": 3})
    report, artifact = run_job(probe, config(targets=targets), caches={"c": cache})
    embed = {(line["target"], line["metric"]): line for line in column(artifact, "metrics", site="embed")}
    for name, headline in (("capitalised", "accuracy"), ("token_id", "accuracy"), ("length", "r2")):
        assert embed[name, headline]["value"] > 0.93
        assert embed[name, headline]["null"] < 0.8
    assert embed["position", "r2"]["value"] < 0.05
    assert embed["topic", "accuracy"]["value"] < 0.5
    assert len(column(artifact, "outputs", target="token_id")) == 3
    assert any("token_id" in note and "no answer" in note for note in report.notes)


def test_position_shows_when_a_label_becomes_readable(make_cache, run_job):
    """The topic enters the states at token 8: before it the probe is at chance, after it right."""
    rng = np.random.default_rng(0)
    n, length = 200, 16
    topic = rng.integers(0, 2, n)
    x = rng.normal(size=(n, length, D))
    x[:, 8:, 0] += 8.0 * (2 * topic[:, None] - 1)
    documents = [Doc(" ".join(["word"] * length), {"topic": "ab"[t]}) for t in topic]
    cache = make_cache(sites={"resid.0": x.reshape(-1, D)}, documents=documents)
    _, artifact = run_job(probe, config(), caches={"c": cache})
    spans = column(artifact, "positions", target="topic")
    assert max(line["value"] for line in spans if line["stop"] <= 8) < 0.75
    assert min(line["value"] for line in spans if line["first"] >= 8) > 0.98
    assert {"sites", "positions", "calibration", "confusion"} == {
        name.split("/")[1].removesuffix(".svg") for name in artifact.files if name.startswith("figures/")
    }


def test_the_same_config_and_cache_give_the_same_numbers(make_cache, run_job):
    documents, sites, _ = planted(n_documents=80)
    cache = make_cache(sites=sites, documents=documents)
    reports = [run_job(probe, config(max_rows=900), caches={"c": cache})[0] for _ in range(2)]
    assert reports[0] == reports[1]
    assert any(note.startswith("8") and f"of {cache.n_rows} rows" in note for note in reports[0].notes)


def test_missing_and_rare_labels_are_left_out_and_said(make_cache, run_job):
    documents, sites, _ = planted()
    documents = [
        Doc(doc.text, {"topic": {0: None, 1: "rare"}.get(n, doc.labels["topic"])}) for n, doc in enumerate(documents)
    ]
    cache = make_cache(sites=sites, documents=documents)
    report, artifact = run_job(probe, config(pooling={"kind": "last_token"}), caches={"c": cache})
    assert metric(report, "topic.accuracy").value > 0.9
    assert [line["class"] for line in column(artifact, "outputs")] == list(TOPICS)
    assert "topic: rare left out, for want of documents on every side of the split." in report.notes
    assert "topic: 2 documents have no answer and take no part." in report.notes


def test_bad_targets_are_refused_with_what_there_is(make_cache, run_job):
    documents, sites, _ = planted(n_documents=60)
    documents = [
        Doc(doc.text, {**doc.labels, "same": "x", "title": f"title {n}", "level": 3.0})
        for n, doc in enumerate(documents)
    ]
    cache = make_cache(sites=sites, documents=documents)
    for fields, message in (
        ({"targets": ["topics"]}, r"'topics'; the cache's label columns are: topic, mood, same, title, level"),
        ({"targets": ["same"]}, r"2 classes or more .* 'same' has 1 classes"),
        ({"targets": ["title"], "max_classes": 20}, r"at most 20 classes .* 'title' has 60"),
        ({"targets": ["level"]}, r"wants a target that varies; 'level' is constant"),
        ({"targets": [{"kind": "number", "name": "title"}]}, r"'title' is not a number everywhere"),
        ({"targets": ["mood"], "method": {"kind": "logistic"}}, r"tells classes apart; mood holds numbers"),
        ({"targets": ["topic"], "pooling": {"kind": "every_token", "skip": 99}}, r"set skip = 0"),
    ):
        with pytest.raises(InputError, match=message):
            run_job(probe, config(**fields), caches={"c": cache})
    unlabelled = make_cache(sites=sites, documents=[Doc(doc.text) for doc in documents], name="bare.words")
    with pytest.raises(InputError, match=r"wants label columns and its corpus has none"):
        run_job(probe, config(), caches={"c": unlabelled})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pooling": {"kind": "mean_token"}, "targets": [{"kind": "position"}]}, "`targets`.*`pooling`"),
        ({"method": {"kind": "logistic"}, "targets": [{"kind": "length"}]}, "`targets`.*`method`"),
        ({"validation": 0.6, "test": 0.5}, r"`validation` \(0.6\) and `test` \(0.5\)"),
        ({"method": {"kind": "ridge", "penalties": [0.0]}}, "`method.penalties` must be above 0"),
        ({"targets": ["topic", "topic"]}, "names one twice: topic, topic"),
        ({"pooling": {"kind": "median"}}, "median"),
        ({"layers": [1]}, "layers"),
    ],
)
def test_contradictions_are_refused_before_any_data_is_read(fields, message):
    with pytest.raises(InputError, match=message):
        config(**fields)


def test_a_plain_table_decodes_to_the_defaults():
    assert config() == probe.Config(cache="c")
    assert config(sites=["resid.3"], targets=["topic", {"kind": "token_id"}]).targets[1].commonest == 20
    assert probe.reads(config(sites=["resid.3"]))[0].sites == config(sites=["resid.3"]).sites
