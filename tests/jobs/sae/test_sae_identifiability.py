"""Soft identifiability: exactness, its chance line, and what baselines reach on linear mixtures."""

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA

from jobs.core import linalg
from jobs.sae.codes import Dense, Sparse
from jobs.sae.identifiability import Examples, soft_identifiability, stacked


def mixtures(n_objects, n, objects_CD, seed):
    """Mean-pooled mixtures of 4 different objects each, with a little noise, and which objects they hold."""
    rng = np.random.default_rng(seed)
    held_N4 = rng.random((n, n_objects)).argsort(axis=1)[:, :4]
    has_NC = np.zeros((n, n_objects), bool)
    np.put_along_axis(has_NC, held_N4, True, axis=1)
    x_ND = has_NC @ objects_CD / 4 + 0.05 * rng.standard_normal((n, objects_CD.shape[1]))
    return x_ND, torch.from_numpy(has_NC)


def halves(n_objects, seed=0, n=2000):
    objects_CD = np.random.default_rng(seed).random((n_objects, 64))
    return [mixtures(n_objects, n, objects_CD, seed + part) for part in (1, 2)]


def score(encode, sets, seed=0):
    train, test = (Examples(torch.from_numpy(encode(x_ND)).float(), has_NC) for x_ND, has_NC in sets)
    return soft_identifiability(train, test, seed)


def slow(z_NF, has_NC):
    """Every object, feature and percentile in turn."""
    best = []
    for has_N in has_NC.T:
        tried = [
            ((z_N > np.percentile(z_N, p).astype(z_N.dtype)) == has_N).mean() for z_N in z_NF.T for p in range(1, 101)
        ]
        best.append(max(tried))
    return np.mean(best)


@pytest.mark.parametrize("block", [1, 64 << 20])
def test_it_is_the_best_of_every_feature_and_percentile(block, monkeypatch):
    monkeypatch.setattr(linalg, "WORKING_BYTES", block)
    rng = np.random.default_rng(0)
    has_NC = rng.random((150, 3)) < 0.3
    z_NF = (rng.standard_normal((150, 5)) + has_NC @ rng.standard_normal((3, 5))).astype(np.float32)
    z_NF[:, 4] = np.round(np.maximum(z_NF[:, 4], 0))  # many ties, many zeros
    examples = Examples(torch.from_numpy(z_NF), torch.from_numpy(has_NC))
    found = soft_identifiability(examples, examples, 0)
    assert found.fit_on_test == pytest.approx(slow(z_NF, has_NC), abs=1e-12)
    assert found.fit_on_train == pytest.approx(found.fit_on_test, abs=1e-12)


def test_features_that_are_the_objects_are_perfect_on_both_fits():
    (_, train), (_, test) = halves(12)
    found = soft_identifiability(Examples(train.float(), train), Examples(test.float(), test), 0)
    assert (found.fit_on_test, found.fit_on_train, found.corrected, found.corrected_train) == (1, 1, 1, 1)
    assert found.null == pytest.approx(found.chance, abs=0.01)


def test_thresholds_are_the_1st_to_the_100th_percentile():
    z_NF = torch.arange(500.0)[:, None]
    nowhere, everywhere = (Examples(z_NF, torch.full((500, 1), present)) for present in (False, True))
    assert soft_identifiability(nowhere, nowhere, 0).fit_on_test == 1
    assert soft_identifiability(everywhere, everywhere, 0).fit_on_test == pytest.approx(0.99)


@pytest.mark.parametrize(("n_objects", "chance"), [(12, 2 / 3), (20, 0.8), (5, 0.8)])
def test_the_chance_line_is_the_majority(n_objects, chance):
    sets = halves(n_objects, n=500)
    assert score(lambda x_ND: x_ND[:, :2], sets).chance == pytest.approx(chance, abs=1e-6)


@pytest.mark.parametrize(("n_objects", "chance"), [(12, 2 / 3), (20, 0.8)])
def test_random_codes_are_at_chance(n_objects, chance):
    rng = np.random.default_rng(0)
    found = score(lambda x_ND: rng.standard_normal((len(x_ND), n_objects)), halves(n_objects))
    assert found.chance == pytest.approx(chance, abs=1e-6)
    for value in (found.fit_on_test, found.fit_on_train, found.null):
        assert value == pytest.approx(chance, abs=0.01)
    assert found.corrected == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize(("n_objects", "least"), [(12, 0.67), (20, 0.8)])
def test_pca_and_k_means_do_not_identify_the_objects_of_linear_mixtures(n_objects, least):
    sets = halves(n_objects)
    pca = PCA(n_objects, random_state=0).fit(sets[0][0])
    centres = KMeans(n_objects, n_init=1, random_state=0).fit(sets[0][0])
    by_pca = score(pca.transform, sets)
    by_centre = score(lambda x_ND: np.eye(n_objects)[centres.predict(x_ND)], sets)
    assert least < by_pca.fit_on_test <= 0.85
    assert least < by_centre.fit_on_test <= 0.85


def test_unmixing_with_the_true_objects_identifies_them_and_choosing_elsewhere_costs_little():
    objects_CD = np.random.default_rng(0).random((12, 64))
    found = score(lambda x_ND: x_ND @ np.linalg.pinv(objects_CD), halves(12))
    assert found.fit_on_test > 0.9
    assert found.fit_on_test - 0.02 < found.fit_on_train <= found.fit_on_test


def test_choosing_among_many_features_by_luck_shows_in_the_null_and_not_on_other_examples():
    rng = np.random.default_rng(0)
    found = score(lambda x_ND: rng.standard_normal((len(x_ND), 2000)), halves(6, n=60))
    assert found.null > found.chance + 0.05
    assert found.fit_on_test > found.chance + 0.05
    assert found.fit_on_train < found.chance + 0.02


def test_codes_of_several_batches_are_stacked_with_their_empty_rows():
    z_NF = torch.tensor([[0.0, 2.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, -3.0], [0.0, 0.0, 0.0]])
    sparse = Sparse.even(torch.tensor([[1.0, -3.0], [0.0, 0.0]]), torch.tensor([[0, 2], [0, 1]]))
    assert torch.equal(stacked([Dense(z_NF[:2]), sparse], [2, 2], 3), z_NF)
