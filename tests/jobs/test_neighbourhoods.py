"""Planted neighbourhoods: weights that agree, dimensions that are known, clusters that hold together."""

import numpy as np
import pytest
import torch

from jobs.core import linalg
from jobs.core.linalg import unit_rows
from jobs.core.neighbours import nearest
from jobs.geometry.agreement import compare, overlap, permuted, row_cosines
from jobs.geometry.coherence import coherence, pair_share
from jobs.geometry.dimension import (
    gaussian_like,
    is_close_call,
    likelihood_dimension,
    local_dimension,
    participation_ratio,
)
from jobs.geometry.space import Dimension, Local, measure
from tests.points import normal, plane, rotation

# Local agreement


def local(k=8, dimension_k=30, points=60, tau=0.95, metric="euclidean"):
    return Local(k=k, metric=metric, reg=1e-3, dimension=Dimension(k=dimension_k, tau=tau, points=points))


def space(x_ND, seed=0, **kw):
    return measure("a", x_ND, local(**kw), torch.arange(min(60, len(x_ND))), seed)


def test_rotated_points_agree_locally_in_full_and_permuted_ones_at_chance():
    x_ND = normal(300, 6)
    found = compare(space(x_ND), space(x_ND @ rotation(6, wider=9) + 2), 1e-3, 20, 100, seed=0)
    for part in (found.weights, found.refitted, found.overlap):
        assert float(part.score_N.mean()) == pytest.approx(1, abs=1e-4)
    assert float(found.overlap.null_N.mean()) == pytest.approx(8 / 299, abs=0.01)
    assert abs(float(found.weights.null_N.mean())) < 0.03
    assert float(found.refitted.null_N.mean()) < 0.8
    assert found.dimension_r[0] == pytest.approx(1, abs=1e-6)
    assert abs(found.dimension_r[1]) < 0.2


def test_weight_agreement_is_the_cosine_of_rows_over_all_points():
    a, b = space(normal(80, 5)), space(normal(80, 5) + 0.5 * normal(80, 5, seed=1))
    scattered = [torch.zeros(80, 80, dtype=torch.float64).scatter(1, s.near.indices_QK, s.weights_NK) for s in (a, b)]
    expected = torch.cosine_similarity(*scattered, dim=1)
    found = row_cosines(a.near.indices_QK, a.weights_NK, b.near.indices_QK, b.weights_NK)
    torch.testing.assert_close(found, expected)


def test_a_permuted_space_is_the_space_of_permuted_points():
    x_ND = normal(70, 4)
    order = torch.randperm(70, generator=torch.Generator().manual_seed(0))
    assert torch.equal(permuted(nearest(x_ND, 5).indices_QK, order), nearest(x_ND[order], 5).indices_QK)


def test_the_local_nulls_are_the_scores_of_a_space_of_permuted_points():
    x_ND, y_ND = normal(70, 4), normal(70, 4, seed=1)
    a, found = space(x_ND), compare(space(x_ND), space(y_ND), 1e-3, 20, 100, seed=5)
    null = space(y_ND[np.random.default_rng(5).permutation(70)])
    expected = row_cosines(a.near.indices_QK, a.weights_NK, null.near.indices_QK, null.weights_NK)
    assert expected.abs().max() > 0.2
    torch.testing.assert_close(found.weights.null_N, expected)
    torch.testing.assert_close(found.overlap.null_N, overlap(a.near.indices_QK, null.near.indices_QK))


def test_overlap_counts_shared_neighbours_in_any_order():
    found = overlap(torch.tensor([[1, 2, 3, 4]]), torch.tensor([[4, 9, 1, 8]]))
    assert found.tolist() == [0.5]


def test_neighbours_rebuild_points_on_a_surface_and_random_points_do_not():
    place = torch.rand(1500, 2, generator=torch.Generator().manual_seed(0))
    surface = torch.cos(place @ normal(2, 30) * 3 + normal(30, seed=1))
    found = space(surface, k=6)
    assert 20 * float(found.error_N.mean()) < found.random_error


def test_cosine_neighbours_do_not_depend_on_norms_and_euclidean_ones_do():
    x_ND, scale_N1 = normal(200, 6), torch.rand(200, 1, generator=torch.Generator().manual_seed(1)) + 0.1
    for metric, same in (("cosine", True), ("euclidean", False)):
        before, after = (space(z, metric=metric).near.indices_QK for z in (x_ND, x_ND * scale_N1))
        assert torch.equal(before, after) == same


# Dimension


@pytest.mark.parametrize("m", [2, 5, 16])
def test_a_plane_far_from_the_origin_has_its_own_dimension_everywhere(m):
    found = space(plane(m), dimension_k=100, tau=0.999)
    assert found.dimension_Q.unique().tolist() == [m]
    assert not found.saturated


@pytest.mark.parametrize(("m", "at_95"), [(2, 2), (5, 5), (16, 15)])
def test_planes_have_the_dimension_that_the_paper_defines(m, at_95):
    """T4: of a plane in 128 dimensions, away from the origin; without centring it would be 1."""
    flat = plane(m, n=3000, width=128)
    for k, tau, expected in ((100, 0.999, m), (1200, 0.95, at_95)):
        found = measure("a", flat, local(dimension_k=k, tau=tau), torch.arange(8), 0)
        assert found.dimension_Q.unique().tolist() == [expected]
        assert int(found.dimension_Q.max()) <= found.ceiling == min(k - 1, 128)


def test_an_isotropic_cloud_of_384_dimensions_has_322_for_1200_neighbours():
    """T5: what the share of .95 makes of 384 equal variances, sampled by 1200 points."""
    x_ND = normal(6000, 384)
    spectra = linalg.local_spectra(x_ND, nearest(x_ND, 1200, torch.arange(12)).indices_QK)
    assert local_dimension(spectra, 0.95).double().mean() == pytest.approx(322, abs=3)


def test_a_ball_has_the_dimension_it_fills_by_every_estimate():
    direction, radius = unit_rows(normal(2000, 4)), torch.rand(2000, 1, generator=torch.Generator().manual_seed(1))
    ball = direction * radius ** (1 / 4) @ rotation(4, wider=50) + 1
    found = space(ball, k=10, dimension_k=100, tau=0.99)
    assert found.dimension_Q.unique().tolist() == [4]
    assert found.cross_checks["two_nn"][0] == pytest.approx(4, abs=0.4)
    assert found.cross_checks["likelihood"][0] == pytest.approx(4, abs=0.5)
    assert found.cross_checks["participation"][0] == pytest.approx(4, abs=0.5)


def test_a_rolled_sheet_has_two_dimensions_near_by_where_its_gaussian_has_three():
    t = 1.5 * np.pi * (1 + 2 * torch.rand(3000, generator=torch.Generator().manual_seed(0)))
    width = 21 * torch.rand(3000, generator=torch.Generator().manual_seed(1))
    found = space(torch.stack([t * torch.cos(t), width, t * torch.sin(t)], dim=1), dimension_k=20)
    assert float(found.dimension_Q.double().median()) == 2
    assert float(found.control_Q.double().median()) == 3
    assert found.cross_checks["two_nn"][0] == pytest.approx(2, abs=0.15)


def test_the_gaussian_control_of_gaussian_points_has_their_dimension():
    found = space(normal(900, 24) * torch.linspace(0.2, 2, 24) + 5, dimension_k=200)
    assert found.control_Q.double().mean() == pytest.approx(float(found.dimension_Q.double().mean()), abs=0.5)


def test_the_gaussian_control_has_the_mean_and_covariance_of_the_points():
    x_ND = plane(3, n=20_000, width=5) * torch.tensor([1, 2, 3, 4, 5])
    control = gaussian_like(x_ND, seed=0)
    torch.testing.assert_close(control.mean(0), x_ND.mean(0), rtol=0, atol=0.1)
    torch.testing.assert_close(torch.cov(control.T), torch.cov(x_ND.T), rtol=0, atol=0.6)


def test_too_few_neighbours_are_called_saturated():
    found = space(normal(300, 64), dimension_k=20)
    assert found.ceiling == 19
    assert found.saturated
    assert int(found.dimension_Q.max()) <= 19


def test_dimension_is_the_least_number_of_components_that_reach_the_share():
    spectra = torch.tensor([[6.0, 3.0, 1.0], [1.0, 1.0, 1.0], [5.0, 0.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    assert local_dimension(spectra, 0.85).tolist() == [2, 3, 1, 0]
    assert participation_ratio(spectra)[:3].tolist() == pytest.approx([100 / 46, 3, 1])


def test_a_share_that_float32_could_miscount_is_worked_out_again():
    spectra = torch.tensor([[6.0, 3.0, 1.0], [6.0, 3.4, 0.6], [0.0, 0.0, 0.0]], dtype=torch.float64)
    assert is_close_call(spectra, 0.9).tolist() == [True, False, True]
    x_ND = normal(500, 30) * torch.linspace(0.3, 2, 30)
    near = nearest(x_ND, 100, torch.arange(60)).indices_QK
    expected = local_dimension(linalg.local_spectra(x_ND, near), 0.95)
    assert torch.equal(space(x_ND, dimension_k=100).dimension_Q, expected)


def test_points_with_a_copy_of_themselves_do_not_spoil_the_likelihood_estimate():
    x_ND = normal(2000, 2)
    x_ND[:50] = x_ND[50:100].clone()
    assert likelihood_dimension(nearest(x_ND, 10).distances_QK) == pytest.approx(2, abs=0.2)


# Coherence


def test_the_share_of_pairs_is_that_of_the_definition():
    near = nearest(normal(50, 3), 6).indices_QK
    sets = torch.tensor([[1, 2, 3, 4], [9, 30, 17, 44]])
    for row, members in enumerate(sets.tolist()):
        pairs = [(one, other) for at, one in enumerate(members) for other in members[at + 1 :]]
        known = [other in near[one].tolist() or one in near[other].tolist() for one, other in pairs]
        assert float(pair_share(sets, near)[row]) == pytest.approx(np.mean(known))


def test_points_of_tight_clusters_in_few_dimensions_are_coherent_and_those_of_a_cloud_are_not():
    flat = normal(20, 1, 30) * 40 + normal(20, 25, 2, seed=1) @ normal(20, 2, 30, seed=2)
    x_ND = torch.cat([flat.reshape(500, 30), normal(500, 30, seed=3) * 8])
    y_ND = x_ND @ rotation(30)
    settings = Local(k=8, metric="euclidean", reg=1e-3, dimension=Dimension(k=20, tau=0.95))
    a, b = (measure(name, z, settings, torch.arange(0, 1000, 3), 0) for name, z in (("a", x_ND), ("b", y_ND)))
    for judge in (a, b):
        found = coherence(a, judge, 20, seed=0)
        assert found.lowest > 0.5 > found.highest > found.random
        assert found.random == pytest.approx(2 * 8 / 999, rel=0.3)
        assert found.rank < -0.5
        assert abs(found.rank_null) < 0.1
    with_stranger = coherence(
        a, measure("c", normal(1000, 30, seed=9), settings, torch.arange(0, 1000, 3), 0), 20, seed=0
    )
    assert with_stranger.lowest == pytest.approx(with_stranger.random, abs=0.03)
