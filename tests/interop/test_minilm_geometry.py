"""T1, T3, T5 and T6 on the table of the pretrained MiniLM, where the extra `real` is installed (`make real`)."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.manifold._locally_linear import barycenter_weights

from examples.real import model_folder
from jobs.core.linalg import barycentric_weights, local_spectra, unit_rows
from jobs.core.neighbours import nearest
from jobs.geometry.dimension import gaussian_like, local_dimension
from jobs.geometry.similarity import pearson, row_sums

pytestmark = pytest.mark.skipif(model_folder() is None, reason="the extra `real` is not installed")
K, TAU = 1200, 0.95


@pytest.fixture(scope="module")
def table():
    return load_file(model_folder() / "model.safetensors")["embeddings.word_embeddings.weight"].float()


@pytest.fixture(scope="module")
def vocabulary():
    return json.loads((model_folder() / "tokenizer.json").read_text())["model"]["vocab"]


def dimensions(x_ND, queries):
    near_QK = nearest(unit_rows(x_ND), K, torch.tensor(queries)).indices_QK
    return local_dimension(local_spectra(x_ND, near_QK), TAU).double()


@pytest.mark.parametrize("k", [5, 10, 20])
def test_lle_weights_are_scikit_learns(table, k):
    rows = torch.arange(2000, 4000)
    near_QK = nearest(table, k, rows).indices_QK
    found, _ = barycentric_weights(table, rows, near_QK, 1e-3)
    expected = barycenter_weights(table[rows].double().numpy(), table.double().numpy(), near_QK.numpy(), 1e-3)
    assert np.abs(found.numpy() - expected).max() < 1e-8
    assert (found.sum(1) - 1).abs().max() < 1e-10


@pytest.mark.parametrize(("noise", "expected"), [(0.25, 0.962), (0.5, 0.834), (1.0, 0.536), (2.0, 0.207)])
def test_noise_lowers_the_agreement_as_measured(table, noise, expected):
    generator = torch.Generator().manual_seed(0)
    x_ND = table[torch.randperm(len(table), generator=generator)[:3000]].double()
    x_ND -= x_ND.mean(0)
    y_ND = x_ND + noise * x_ND.std() * torch.randn(x_ND.shape, generator=generator, dtype=torch.float64)
    r = float(pearson(row_sums(unit_rows(x_ND), unit_rows(y_ND)).sum(0), 3000 * 2999))
    assert r == pytest.approx(expected, abs=0.02)


def test_words_fill_fewer_dimensions_than_a_gaussian_of_their_covariance(table):
    used, words = table[1996:], list(range(0, 26_000, 1300))  # without special and unused entries and lone characters
    gaussian, found = dimensions(gaussian_like(used, 0), words), dimensions(used, words)
    assert gaussian.mean() == pytest.approx(278, abs=3)
    assert found.mean() == pytest.approx(263, abs=6)


def test_numerals_lie_in_fewer_dimensions_than_entries_that_were_never_used(table, vocabulary):
    numerals = [vocabulary[str(n)] for n in range(100, 1000) if str(n) in vocabulary][::12][:30]
    unused = [vocabulary[f"[unused{n}]"] for n in range(10, 500, 16)][:30]
    low, high = dimensions(table, numerals), dimensions(table, unused)
    assert float(high.mean() - low.mean()) >= 40
