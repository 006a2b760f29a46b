"""Neighbourhood algebra against slow references and scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.manifold._locally_linear import barycenter_weights
from sklearn.neighbors import NearestNeighbors

from jobs.core import linalg, neighbours
from jobs.core.linalg import barycentric_weights, blocks, centred, local_spectra, quick_spectra, unit_rows
from jobs.core.neighbours import nearest, neighbourhoods
from tests.points import normal


def all_rows(x_ND):
    return torch.arange(len(x_ND))


def exact_neighbours(x_ND, k):
    """Every distance in float64, self taken out by index, sorted by distance and then index."""
    distance_NN = torch.cdist(x_ND.double(), x_ND.double(), compute_mode="donot_use_mm_for_euclid_dist")
    distance_NN.fill_diagonal_(torch.inf)
    return distance_NN.argsort(dim=1, stable=True)[:, :k]


def test_blocks_cover_every_row_once_whatever_the_memory():
    for row_bytes in (1, 10**6, 10**12):
        assert [i for part in blocks(130, row_bytes) for i in range(130)[part]] == list(range(130))


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_neighbours_are_those_of_all_pairs_even_far_from_the_origin(offset):
    x_ND = normal(300, 24) + offset
    assert torch.equal(nearest(x_ND, 7).indices_QK, exact_neighbours(x_ND, 7))


def test_neighbours_and_distances_agree_with_scikit_learn():
    x_ND = normal(400, 16)
    near = nearest(x_ND, 9)
    expected = NearestNeighbors(n_neighbors=10, algorithm="brute").fit(x_ND.numpy().astype(np.float64))
    distances, indices = expected.kneighbors()[0][:, :9], expected.kneighbors()[1][:, :9]
    assert np.array_equal(near.indices_QK, indices)
    np.testing.assert_allclose(near.distances_QK, distances, atol=1e-12)


def test_a_point_is_left_out_by_index_and_its_copies_are_neighbours():
    x_ND = normal(60, 5)
    x_ND[[40, 17, 3]] = x_ND[9].clone()
    near = nearest(x_ND, 3)
    assert near.indices_QK[9].tolist() == [3, 17, 40]
    assert near.indices_QK[17].tolist() == [3, 9, 40]
    assert near.distances_QK[9].tolist() == [0, 0, 0]


def test_ties_go_to_the_lower_index_even_when_more_points_tie_than_are_kept():
    x_ND = torch.ones(200, 8)
    near = nearest(x_ND, 4)
    assert near.indices_QK[0].tolist() == [1, 2, 3, 4]
    assert near.indices_QK[150].tolist() == [0, 1, 2, 3]
    grid = torch.cartesian_prod(torch.arange(12.0), torch.arange(12.0))
    assert torch.equal(nearest(grid, 4).indices_QK, exact_neighbours(grid, 4))


def test_one_huge_row_does_not_spoil_the_others():
    x_ND = normal(200, 32)
    x_ND[50] *= 1e5
    assert torch.equal(nearest(x_ND, 5).indices_QK, exact_neighbours(x_ND, 5))


def test_queries_are_rows_of_the_full_answer_in_their_order():
    x_ND = normal(100, 6)
    some = torch.tensor([70, 2, 33])
    assert torch.equal(nearest(x_ND, 5, some).indices_QK, nearest(x_ND, 5).indices_QK[some])


GRID = torch.cartesian_prod(torch.arange(12.0), torch.arange(12.0))
HUGE = torch.cat([normal(199, 32), 1e5 * normal(1, 32, seed=1)])


@pytest.mark.parametrize("k", [1, 16, 17, 60, 142, 143])
@pytest.mark.parametrize(
    "x_ND", [normal(144, 24) + 1000, GRID, HUGE, torch.ones(144, 3)], ids=["far", "ties", "huge", "same"]
)
def test_neighbourhoods_are_the_nearest_by_index(x_ND, k):
    some = torch.arange(0, len(x_ND), 3)
    assert torch.equal(neighbourhoods(x_ND, k, some), nearest(x_ND, k, some).indices_QK.sort(dim=1).values)


def test_of_a_neighbourhood_only_the_open_places_are_measured_again(monkeypatch):
    measured = []
    closest = neighbours._closest
    monkeypatch.setattr(neighbours, "_closest", lambda *given: measured.append(given[2].shape[1]) or closest(*given))
    neighbourhoods(normal(500, 24), 200, torch.arange(20))
    assert measured == [2 * neighbours.SPARE]


def test_more_neighbours_than_other_points_are_refused():
    assert nearest(normal(5, 2), 4).indices_QK.shape == (5, 4)
    with pytest.raises(ValueError, match="5 neighbours were asked of 5 points"):
        nearest(normal(5, 2), 5)


@pytest.mark.parametrize("working_bytes", [1, 20_000])
def test_the_size_of_a_block_changes_nothing(monkeypatch, working_bytes):
    x_ND = normal(150, 12) + normal(12, seed=1)
    near = nearest(x_ND, 6)
    weights, left = barycentric_weights(x_ND, all_rows(x_ND), near.indices_QK)
    spectra = local_spectra(x_ND, near.indices_QK)
    monkeypatch.setattr(linalg, "WORKING_BYTES", working_bytes)
    again = nearest(x_ND, 6)
    assert torch.equal(again.indices_QK, near.indices_QK)
    torch.testing.assert_close(again.distances_QK, near.distances_QK, rtol=0, atol=1e-12)
    weights_again, left_again = barycentric_weights(x_ND, all_rows(x_ND), near.indices_QK)
    torch.testing.assert_close(weights_again, weights, rtol=0, atol=1e-12)
    torch.testing.assert_close(left_again, left, rtol=0, atol=1e-12)
    torch.testing.assert_close(local_spectra(x_ND, near.indices_QK), spectra, rtol=0, atol=1e-12)


@pytest.mark.parametrize("k", [5, 10, 20])
def test_weights_equal_scikit_learns(k):
    x_ND = normal(500, 16)
    near = nearest(x_ND, k).indices_QK
    weights, _ = barycentric_weights(x_ND, all_rows(x_ND), near)
    x = x_ND.double().numpy()
    assert np.abs(weights.numpy() - barycenter_weights(x, x, near.numpy(), reg=1e-3)).max() < 1e-8
    assert (weights.sum(1) - 1).abs().max() < 1e-10


def test_weights_survive_scaling_rotation_translation_and_more_dimensions():
    x_ND = normal(200, 8, dtype=torch.float64)
    basis_DE = torch.linalg.qr(normal(20, 8, dtype=torch.float64, seed=1)).Q.T
    moved_NE = 3.7 * x_ND @ basis_DE + normal(20, dtype=torch.float64, seed=2)
    near = nearest(x_ND, 6).indices_QK
    weights, left = barycentric_weights(x_ND, all_rows(x_ND), near)
    moved, moved_left = barycentric_weights(moved_NE, all_rows(x_ND), near)
    torch.testing.assert_close(moved, weights, rtol=0, atol=1e-9)
    torch.testing.assert_close(moved_left, 3.7**2 * left, rtol=1e-8, atol=0)


def test_a_point_inside_its_neighbours_plane_is_rebuilt():
    corners = torch.tensor([[0.0, 0.0, 5.0], [4.0, 0.0, 5.0], [0.0, 4.0, 5.0]])
    x_ND = torch.cat([torch.tensor([[1.0, 2.0, 5.0]]), corners])
    weights, left = barycentric_weights(x_ND, torch.tensor([0]), torch.tensor([[1, 2, 3]]), reg=1e-9)
    torch.testing.assert_close(weights[0], torch.tensor([0.25, 0.25, 0.5], dtype=torch.float64), rtol=0, atol=1e-6)
    assert left[0] < 1e-9


def test_coinciding_neighbours_and_more_neighbours_than_dimensions_give_finite_weights():
    same = torch.ones(6, 3)
    weights, left = barycentric_weights(same, torch.tensor([0]), torch.tensor([[1, 2, 3, 4, 5]]))
    torch.testing.assert_close(weights, torch.full((1, 5), 0.2, dtype=torch.float64))
    assert left[0] == 0
    x_ND = normal(50, 3)
    near = nearest(x_ND, 10).indices_QK
    near[:, 1] = near[:, 0]
    weights, _ = barycentric_weights(x_ND, all_rows(x_ND), near)
    assert weights.isfinite().all()
    torch.testing.assert_close(weights.sum(1), torch.ones(50, dtype=torch.float64))


@pytest.mark.parametrize("k", [6, 40])
def test_spectra_are_the_eigenvalues_of_each_neighbourhoods_covariance(k):
    x_ND = normal(80, 10) * torch.arange(1, 11) + 100
    near = nearest(x_ND, k).indices_QK[:5]
    spectra = local_spectra(x_ND, near)
    assert spectra.shape == (5, min(k - 1, 10))
    for found, rows in zip(spectra.numpy(), near.numpy(), strict=True):
        expected = np.linalg.eigvalsh(np.cov(x_ND.double().numpy()[rows].T))[::-1][: len(found)]
        np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("k", [6, 40])
def test_quick_spectra_are_the_exact_ones_to_float32(k):
    x_ND = normal(300, 16) * torch.linspace(0.1, 3, 16) + 50
    near = nearest(x_ND, k, torch.arange(20)).indices_QK
    exact, quick = local_spectra(x_ND, near), quick_spectra(x_ND, near)
    assert quick.shape == exact.shape
    assert ((quick - exact).abs() / exact[:, :1]).max() < 1e-5


@pytest.mark.parametrize("widest", [1.0, 1000.0])
def test_shares_of_quick_spectra_are_far_closer_than_a_close_call(widest):
    x_ND = normal(900, 96) * torch.arange(1, 97) ** -0.75 + 100
    x_ND[:, :2] *= widest
    near = neighbourhoods(x_ND, 300, torch.arange(20))
    exact, quick = (
        values.cumsum(1) / values.sum(1, keepdim=True)
        for values in (local_spectra(x_ND, near), quick_spectra(x_ND, near))
    )
    assert (quick - exact).abs().max() < 1e-6


def test_unit_rows_keep_zero_and_centred_rows_sum_to_zero():
    x_ND = normal(20, 4) + 1e4
    x_ND[3] = 0
    torch.testing.assert_close(unit_rows(x_ND).norm(dim=1)[[0, 3]], torch.tensor([1.0, 0.0]))
    assert centred(x_ND).mean(0).abs().max() < 1e-2
