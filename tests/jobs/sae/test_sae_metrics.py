"""The numbers of a coder and of its baselines."""

import numpy as np
import pytest
import torch
from scipy.stats import rankdata
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score

from jobs.sae.codes import Dense
from jobs.sae.dictionaries import random_atoms
from jobs.sae.features import DocumentMeans, Leaders
from jobs.sae.metrics import Tally, Tellers, auroc, baselines, fvu, principal_directions, purity
from tests.jobs.sae.planting import both, config, planted, randn, untrained


@pytest.fixture(scope="module")
def material():
    return planted()


def test_fvu_is_about_the_mean_of_each_dimension():
    x = randn(500, 6) + torch.arange(6) * 100
    x_hat = x + 0.5 * randn(500, 6, seed=1)
    centred = (x - x.mean(0)).double()
    assert fvu(x, x_hat) == pytest.approx(float((x - x_hat).square().sum() / centred.square().sum()), rel=1e-4)
    assert fvu(x, x.mean(0).expand_as(x)) == pytest.approx(1, rel=1e-6)


def test_a_tally_over_batches_is_the_metric_of_all_rows(material):
    rows, _ = material
    coder = untrained(rows, config(width=50))
    coder.b_enc_F.data[:10] = -100
    tally = Tally(coder, rows[0])
    with torch.no_grad():
        for x in rows[:1000].split(300):
            tally.add(both(x), coder.encode(x))
        found = coder.encode(rows[:1000])
        z = found.mix(torch.eye(50))
        assert tally.fvu == pytest.approx(fvu(rows[:1000], coder.decode(found)), rel=1e-6)
    assert tally.l0 == pytest.approx(float((z != 0).sum(1).float().mean()), rel=1e-9)
    np.testing.assert_allclose(tally.density, (z != 0).double().mean(0).numpy())
    assert (tally.density[:10] == 0).all()


def test_the_baselines_are_pca_and_a_random_dictionary_at_its_best_scale(material):
    rows, _ = material
    training, held = rows[:3000], rows[3000:5000]
    mean = training.mean(0)
    directions = principal_directions(training.split(700), mean)[:5]
    random_fvu, pca_fvu = baselines(held.split(300), 50, directions, mean, 5, seed=7)
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
