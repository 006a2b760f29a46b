"""Groups stay on one side of the split, rare classes can be weighed, and directions leave as vectors."""

import numpy as np
import pytest
import torch
from conftest import Doc
from sklearn.linear_model import LogisticRegression

import jobs.probe as probe
from jobs.core.splits import split_documents
from jobs.probe.groups import group_names
from jobs.probe.logistic import class_weights, design, minimise
from jobs.probe.ridge import Linear
from storage import InputError, Site
from storage.value import convert

N, WIDTH = 300, 10
SITE = Site.parse("resid.0")


def world(make_cache, n_speakers=30, rare=0.5, order=None):
    """Documents of two tokens by speakers who have states, and topics, of their own."""
    rng = np.random.default_rng(0)
    speaker = np.arange(N) % n_speakers
    topic = np.where(rng.random(n_speakers) < 0.5, "a", "b")[speaker]
    mood = np.where(rng.random(N) < rare, "good", "bad")
    x = rng.normal(size=(N, 2, WIDTH)) * 0.3 + 3 * rng.normal(size=(n_speakers, 1, WIDTH))[speaker]
    x[..., 0] += 2 * (mood == "good")[:, None]
    order = np.arange(N) if order is None else order
    documents = [
        Doc("u v", {"topic": topic[n], "mood": mood[n], "speaker": f"s{speaker[n]}"}, key=f"d{n:03d}") for n in order
    ]
    return {"c": make_cache({"resid.0": x[order].reshape(-1, WIDTH).astype(np.float32)}, documents)}


def config(**fields):
    chosen = {"cache": "c", "targets": ["topic"], "pooling": {"kind": "mean_token", "skip": 0}} | fields
    return convert(chosen, probe.Config, "jobs.probe")


def accuracy(report, name="topic"):
    return next(metric for metric in report.metrics if metric.name == f"{name}.accuracy")


def test_what_a_speaker_gives_away_is_no_finding_once_speakers_are_kept_apart(run_job, make_cache):
    """Topics are the speakers' own: who knows the speaker's states knows the topic, and nobody else does."""
    caches = world(make_cache, n_speakers=10)
    together, apart = (run_job(probe, config(group=group), caches)[0] for group in (None, "speaker"))
    assert accuracy(together).value > 0.95
    assert accuracy(apart).value < 0.8
    assert any("Documents of one speaker are on one side" in note for note in apart.notes)
    assert any("shuffled between groups of one speaker" in note for note in apart.notes)


def test_groups_are_not_split_and_documents_without_one_are_their_own(make_cache):
    tokens = world(make_cache)["c"].tokens
    names = group_names("speaker", tokens)
    split = split_documents(names, seed=0)
    speakers = tokens.label("speaker")
    for mask in (split.train, split.validation, split.test):
        assert not set(speakers[mask]) & set(speakers[~mask])
    lone = make_cache(
        {"resid.0": np.zeros((4, 2), np.float32)}, [Doc("x", {"speaker": one}) for one in ("s", "s", None, None)]
    )
    assert len(set(group_names("speaker", lone.tokens))) == 3


def test_too_few_groups_and_an_unknown_column_are_refused(run_job, make_cache):
    with pytest.raises(InputError, match=r"group = 'speaker' has 1 values \(s0\); a split wants one at least to train"):
        run_job(probe, config(group="speaker"), world(make_cache, n_speakers=1))
    with pytest.raises(InputError, match="there is no label 'author'"):
        run_job(probe, config(group="author"), world(make_cache))


def test_balanced_weights_are_scikit_learns():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(500, 6)).astype(np.float32)
    y = (x[:, 0] + rng.normal(size=500) > 1.6).astype(np.int64)
    train = design(torch.from_numpy(x.copy()))
    weight_C = class_weights(torch.from_numpy(y), 2)
    start = Linear(torch.zeros(6, 2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64))
    (fit,) = minimise(train, torch.from_numpy(y)[None], [start], 0.01, 1e-7, [weight_C])
    l2 = 0.01 * float(train.values_D.mean())
    theirs = LogisticRegression(C=1 / (500 * l2), class_weight="balanced", tol=1e-8, max_iter=1000)
    # two columns with a penalty on each stand for one column with half of it
    theirs.set_params(C=2 / (500 * l2)).fit(x, y)
    np.testing.assert_allclose((fit.W_DK[:, 1] - fit.W_DK[:, 0]).numpy(), theirs.coef_[0], atol=2e-3)


def test_a_rare_class_is_found_once_classes_count_the_same(run_job, make_cache):
    caches = world(make_cache, rare=0.1)
    recall = []
    for balanced in (False, True):
        method = {"kind": "logistic", "penalties": [1e-1], "balanced": balanced}
        report, _ = run_job(probe, config(targets=["mood"], method=method), caches)
        recall.append(next(m.value for m in report.metrics if m.name == "mood.balanced_accuracy"))
    assert recall[1] > recall[0]


@pytest.mark.parametrize("method", ["ridge", "logistic"])
def test_vectors_point_to_their_class_and_are_as_long_as_it_is_away(run_job, make_cache, method):
    _, artifact = run_job(probe, config(targets=["mood"], method={"kind": method}), world(make_cache))
    vectors = probe.load(artifact)
    good, bad = (vectors.at(SITE, "mood", value) for value in ("good", "bad"))
    assert good[0] / good.norm() > 0.9
    assert good.norm() == pytest.approx(2, rel=0.15)
    torch.testing.assert_close(good, -bad, rtol=1e-4, atol=1e-4)
    with pytest.raises(
        InputError, match=r"holds no vector resid\.0/mood/fine; it holds resid\.0/mood/bad, resid\.0/mood/good"
    ):
        vectors.at(SITE, "mood", "fine")


def test_order_of_rows_changes_no_ridge_probe(run_job, make_cache, monkeypatch):
    found = []
    for order, block in ((None, 16_384), (np.random.default_rng(3).permutation(N), 37)):
        monkeypatch.setattr("jobs.probe.examples._BLOCK", block)
        report, artifact = run_job(probe, config(targets=["mood"]), world(make_cache, order=order))
        found.append((accuracy(report, "mood"), probe.load(artifact).at(SITE, "mood", "good").double()))
    assert (found[0][0].value, found[0][0].null) == (found[1][0].value, found[1][0].null)
    assert ((found[0][1] - found[1][1]).norm() / found[0][1].norm()) < 1e-6
