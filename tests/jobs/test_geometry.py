"""Planted geometry: known dimensions, known agreement, and caches whose shape was chosen."""

import io
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from conftest import Doc

import jobs.geometry as geometry
from jobs.core import linalg
from jobs.core.neighbours import nearest
from jobs.geometry.agreement import compare, overlap, permuted, row_cosines
from jobs.geometry.coherence import coherence, pair_share
from jobs.geometry.config import Config, Side
from jobs.geometry.dimension import (
    gaussian_like,
    is_close_call,
    likelihood_dimension,
    local_dimension,
    participation_ratio,
)
from jobs.geometry.figures import readable
from jobs.geometry.points import DocumentMeans, Rows, Source, TokenMeans, choose, states
from jobs.geometry.similarity import cross_sum, pearson, row_sums, similarity
from jobs.geometry.space import Dimension, Local, measure
from storage import InputError, Site
from storage.value import convert


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rotation(d, wider=None, seed=9):
    return torch.linalg.qr(normal(wider or d, d, seed=seed)).Q.T


def dense_r(x_ND, y_NE, first=1):
    """Pearson r of all pairwise dot products from the `first` diagonal up, the slow way."""
    upper = np.triu_indices(len(x_ND), first)
    a, b = ((z.double() @ z.double().T).numpy()[upper] for z in (x_ND, y_NE))
    return np.corrcoef(a, b)[0, 1]


def r_of(x_ND, y_NE):
    n = len(x_ND)
    return float(pearson(row_sums(x_ND, y_NE).sum(0), n * (n - 1)))


def unit(x_ND):
    return linalg.unit_rows(x_ND)


# Global similarity


def test_similarity_is_the_pearson_r_of_all_pairs_for_dot_products_and_cosines():
    x_ND = normal(150, 12) + 0.5
    y_NE = normal(150, 7, seed=1) + x_ND[:, :7]
    assert r_of(x_ND, y_NE) == pytest.approx(dense_r(x_ND, y_NE), abs=1e-9)
    assert r_of(unit(x_ND), unit(y_NE)) == pytest.approx(dense_r(unit(x_ND), unit(y_NE)), abs=1e-9)


def test_independent_points_do_not_agree_though_with_the_diagonal_they_would():
    x_ND, y_NE = unit(normal(100, 64)), unit(normal(100, 96, seed=1))
    assert dense_r(x_ND, y_NE, first=0) > 0.5
    assert abs(r_of(x_ND, y_NE)) < 0.06
    found = similarity(x_ND, y_NE, 20, 200, seed=0)
    assert abs(found.null_P.mean()) < 0.02
    assert found.low < 0 < found.high


def test_rotated_points_in_more_dimensions_agree_fully_and_permuted_ones_do_not():
    x_ND = unit(normal(300, 20))
    y_NE = x_ND @ rotation(20, wider=33)
    found = similarity(x_ND, y_NE, 20, 200, seed=0)
    assert found.r == pytest.approx(1, abs=1e-6)
    assert (found.point_r_N - 1).abs().max() < 1e-5
    assert np.abs(found.null_P).max() < 0.02
    assert abs(r_of(x_ND, y_NE[torch.randperm(300, generator=torch.Generator().manual_seed(0))])) < 0.02


@pytest.mark.parametrize("noise", [0.5, 1.0, 2.0])
def test_noise_lowers_the_agreement_as_it_must(noise):
    x_ND = normal(800, 200)
    y_ND = x_ND + noise * normal(800, 200, seed=1)
    assert r_of(x_ND, y_ND) == pytest.approx(1 / (1 + noise**2), abs=0.02)


def test_a_permuted_null_is_the_agreement_with_permuted_points():
    x_ND, y_NE = normal(90, 6), normal(90, 8, seed=1) + 1
    order = torch.randperm(90, generator=torch.Generator().manual_seed(3))
    sums = row_sums(x_ND, y_NE).sum(0)
    sums[4] = cross_sum(x_ND, y_NE, order)
    assert float(pearson(sums, 90 * 89)) == pytest.approx(dense_r(x_ND, y_NE[order]), abs=1e-9)


def test_each_points_own_agreement_leaves_itself_out():
    x_ND, y_NE = unit(normal(60, 6)), unit(normal(60, 6) + normal(60, 6, seed=1))
    found = similarity(x_ND, y_NE, 20, 100, seed=0)
    others = [i for i in range(60) if i != 7]
    expected = np.corrcoef((x_ND[others] @ x_ND[7]).numpy(), (y_NE[others] @ y_NE[7]).numpy())[0, 1]
    assert float(found.point_r_N[7]) == pytest.approx(expected, abs=1e-5)


def test_the_interval_is_that_of_points_drawn_again_in_full():
    x_ND = unit(normal(250, 10))
    y_ND = unit(x_ND + 0.6 * unit(normal(250, 10, seed=1)))
    found = similarity(x_ND, y_ND, 20, 600, seed=0)
    a, b = (x_ND @ x_ND.T).numpy(), (y_ND @ y_ND.T).numpy()
    rng, drawn = np.random.default_rng(1), []
    for _ in range(300):
        at = rng.integers(250, size=250)
        different = np.triu(at[:, None] != at[None], 1)
        drawn.append(np.corrcoef(a[np.ix_(at, at)][different], b[np.ix_(at, at)][different])[0, 1])
    low, high = np.quantile(drawn, (0.025, 0.975))
    assert found.high - found.low == pytest.approx(high - low, rel=0.15)
    assert (found.low + found.high) / 2 == pytest.approx((low + high) / 2, abs=0.005)


def test_blocks_do_not_change_the_agreement(monkeypatch):
    x_ND, y_NE = normal(200, 9) + 3, normal(200, 11, seed=1) + 3
    before = row_sums(x_ND, y_NE)
    monkeypatch.setattr(linalg, "WORKING_BYTES", 5000)
    torch.testing.assert_close(row_sums(x_ND, y_NE), before, rtol=1e-10, atol=1e-8)


def test_agreement_is_that_of_the_noise_that_was_put_in():
    """T3: an orthogonal embedding keeps every cosine, and noise lowers r as it was measured elsewhere."""
    x_ND = normal(1500, 384).double()
    assert r_of(unit(x_ND), unit(x_ND @ rotation(384, wider=512).double())) == pytest.approx(1, abs=1e-9)
    table = x_ND * torch.linspace(2, 0.5, 384) + 0.3  # word tables are neither isotropic nor centred
    for noise in (0.25, 0.5, 1.0, 2.0):
        noisy = table + noise * table.std() * normal(1500, 384, seed=4)
        blockwise, dense = r_of(unit(table), unit(noisy)), dense_r(unit(table), unit(noisy))
        assert blockwise == pytest.approx(dense, abs=1e-9)
    independent = unit(normal(2000, 48)), unit(normal(2000, 64, seed=1))
    assert abs(r_of(*independent)) <= 0.02


@pytest.mark.slow
def test_a_hundred_thousand_points_are_compared_in_little_memory():
    """Peak beyond the interpreter and the points themselves, in a process of its own; N^2 would be 80 GB."""
    code = """
import torch
from benchmarks.timing import own_memory
from jobs.core.linalg import centred, without_widest
from jobs.geometry.dimension import gaussian_like
from jobs.geometry.similarity import similarity
x, y = torch.randn(100_000, 128), torch.randn(100_000, 192)
before = own_memory("VmRSS")
similarity(x, y, 2, 100, 0)
gaussian_like(without_widest(centred(y), 3), 0)
print(own_memory("VmHWM") - before, own_memory("VmHWM"))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=280)
    more, peak = map(float, done.stdout.split())
    assert more < 600
    assert peak < 2000


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


def plane(m, n=500, width=40, offset=3.0):
    return normal(n, m) @ rotation(m, wider=width) + offset


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
    direction, radius = unit(normal(2000, 4)), torch.rand(2000, 1, generator=torch.Generator().manual_seed(1))
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


# The job


N_WORDS = 60


def corpus(n_documents=40, length=30, seed=0):
    rng = np.random.default_rng(seed)
    words = np.array([f"w{number}" for number in range(N_WORDS)])
    return [Doc(" ".join(words[rng.integers(N_WORDS, size=length)]), key=f"d{n}") for n in range(n_documents)]


def word_rows(documents, table_VD, noise=0.0, seed=0):
    rows = np.array([int(word[1:]) for doc in documents for word in doc.text.split()])
    rng = np.random.default_rng(seed)
    return (table_VD[rows] + noise * rng.normal(size=(len(rows), table_VD.shape[1]))).astype(np.float32)


def config(**changes):
    settings = {"cache": "a", "site": "resid.0", "skip": 0, "k": 5, "dimension": {"k": 30, "points": 40}}
    return convert(settings | changes, Config, "jobs.geometry")


def values(report):
    return {metric.name: metric.value for metric in report.metrics}


def table(artifact, name):
    return pq.read_table(io.BytesIO(artifact.read(f"{name}.parquet"))).to_pydict()


@pytest.fixture
def pair(make_cache):
    """Two caches whose words lie in the same places but for a rotation, in documents of different order."""
    documents = corpus()
    table_VD = normal(N_WORDS, 8).numpy()
    turned_VE = table_VD @ rotation(8, wider=12).numpy()
    first = make_cache({"resid.0": word_rows(documents, table_VD, noise=0.01)}, documents, name="small.words")
    backwards = documents[::-1]
    second = make_cache({"resid.3": word_rows(backwards, turned_VE, 0.01, 1)}, backwards, name="large.words")
    return {"a": first, "b": second}


AGAINST = {"cache": "b", "site": "resid.3"}


def test_two_rotated_spaces_agree_at_every_scale_and_their_nulls_do_not(pair, run_job):
    report, artifact = run_job(geometry, config(against=AGAINST), pair)
    found = values(report)
    null = {metric.name: metric.null for metric in report.metrics}
    assert found["similarity"] > 0.999
    assert found["weights"] > 0.95
    assert found["overlap"] > 0.95
    assert abs(null["similarity"]) < 0.1
    assert null["overlap"] < 0.25
    assert found["similarity_low"] <= found["similarity"] <= found["similarity_high"]
    expected = {"similarity", "local", "dimension", "points"}
    assert {f"figures/{name}.svg" for name in expected} <= set(artifact.files)
    assert all(artifact.files[f"figures/{name}.svg"].caption for name in expected)
    for name in ("dot", "dot_centred", "similarity_centred", "similarity_without_widest", "similarity_rank"):
        assert found[name] > 0.99
        assert abs(null[name]) < 0.1
    for name in ("weights_k20", "overlap_k20"):
        assert found[name] > 0.9 > null[name]
    lines = table(artifact, "agreement")
    assert np.mean(lines["weights"]) == pytest.approx(found["weights"])
    extremes = table(artifact, "extremes")
    assert len(extremes["string"]) == 4 * 30
    assert extremes["dimension"][:30] == sorted(extremes["dimension"][:30])
    assert {len(near) for near in extremes["neighbours"]} == {5}


def test_token_means_are_the_means_of_the_rows_of_each_token(make_cache, run_job):
    documents = corpus()
    rows_RD = word_rows(documents, normal(N_WORDS, 8).numpy(), noise=1.0)
    cache = make_cache({"resid.0": rows_RD}, documents)
    _, artifact = run_job(geometry, config(metric="cosine"), {"a": cache})
    lines = table(artifact, "first")
    words = np.array([word for doc in documents for word in doc.text.split()])
    means_ND = torch.from_numpy(np.stack([rows_RD[words == name.strip()].mean(0) for name in lines["string"]]))
    near = nearest(unit(means_ND), 5)
    assert lines["neighbours"] == [[lines["string"][j] for j in row] for row in near.indices_QK.tolist()]
    np.testing.assert_allclose(lines["distances"], near.distances_QK, rtol=1e-4)
    assert sum(value is not None for value in lines["dimension"]) == 40


def test_rows_are_matched_by_the_place_where_they_end(pair, run_job):
    report, artifact = run_job(geometry, config(against=AGAINST, points={"kind": "rows"}, n_points=300), pair)
    assert values(report)["similarity"] > 0.99
    first, second = table(artifact, "first"), table(artifact, "second")
    assert first["key"] == second["key"]
    assert len(set(first["key"])) == 300
    assert pair["a"].tokens.strings(np.array(first["id"])) == pair["b"].tokens.strings(np.array(second["id"]))


def test_document_means_are_means_of_the_documents_rows(pair):
    sources = [Source(name, cache.site(cache.sites[0]), cache.tokens, skip=2) for name, cache in pair.items()]
    chosen = choose(DocumentMeans(), sources, 100, seed=0)
    assert sorted(chosen.keys) == sorted(f"d{number}" for number in range(40))
    for source, members_N in zip(sources, chosen.members, strict=True):
        x_ND = states(DocumentMeans(), source, members_N, "cpu")
        for x_D, document in zip(x_ND, members_N.tolist(), strict=True):
            rows = source.activations[source.tokens.document_rows(document)[2:]]
            np.testing.assert_allclose(x_D, rows.mean(0), atol=1e-6)


def test_first_positions_are_left_out_as_asked(make_cache):
    documents = corpus()
    rows_RD = word_rows(documents, normal(N_WORDS, 8).numpy(), noise=0.01)
    starts = np.arange(0, len(rows_RD), 30)
    rows_RD[starts] += 1000
    cache = make_cache({"resid.0": rows_RD}, documents)
    for skip, largest in ((0, 100), (1, 10)):
        source = Source("a", cache.site("resid.0"), cache.tokens, skip)
        for points in (TokenMeans(), Rows()):
            members_N = choose(points, [source], 1000, seed=0).members[0]
            assert (states(points, source, members_N, "cpu").abs().max() > largest) == (skip == 0)


def test_rare_tokens_are_left_out_and_a_leading_space_is_part_of_a_token(make_cache):
    documents = [*corpus(), Doc("w0 rare w1", key="last")]
    table_VD = normal(N_WORDS, 8).numpy()
    rows_RD = np.concatenate([word_rows(documents[:-1], table_VD), normal(3, 8, seed=5).numpy()])
    cache = make_cache({"resid.0": rows_RD}, documents)
    source = Source("a", cache.site("resid.0"), cache.tokens, skip=0)
    assert " rare" in choose(TokenMeans(), [source], 100, seed=0).keys
    assert " rare" not in choose(TokenMeans(min_count=2), [source], 100, seed=0).keys
    assert choose(TokenMeans(), [source], 100, seed=0).found == (N_WORDS + 1,)


def test_words_are_matched_by_id_where_both_caches_have_one_tokenizer(make_cache):
    words = [f"w{number}" for number in range(8)]
    text = make_cache({"resid.0": normal(8, 8).numpy()}, [Doc(" ".join(words), key="text")])
    vocabulary = make_cache({"embed": normal(8, 8).numpy()}, [Doc(word, key=word) for word in words])
    for tokenizer, shared in (("", 1), ("digest", 8)):  # by string, only the word that has no space before it
        sources = [
            Source(name, cache.site(cache.sites[0]), cache.tokens, 0, tokenizer)
            for name, cache in (("vocabulary", vocabulary), ("text", text))
        ]
        chosen = choose(TokenMeans(), sources, 100, seed=0)
        assert chosen.shared == shared
        assert np.array_equal(*chosen.members)
        assert set(chosen.strings) <= set(words)


def test_the_same_points_are_drawn_whatever_the_order_of_caches_and_documents(pair):
    sources = [Source(name, cache.site(cache.sites[0]), cache.tokens, skip=0) for name, cache in pair.items()]
    for points in (TokenMeans(), DocumentMeans()):
        forward, backward = choose(points, sources, 25, seed=3), choose(points, sources[::-1], 25, seed=3)
        assert forward.keys == backward.keys
        assert forward.sha256 == backward.sha256
        assert forward.keys == sorted(forward.keys)
        assert len(set(forward.keys)) == 25
        assert choose(points, sources, 25, seed=4).keys != forward.keys
        x_ND = states(points, sources[0], forward.members[0], "cpu")
        assert torch.equal(x_ND, states(points, sources[0], backward.members[1], "cpu"))


def test_order_of_rows_and_size_of_blocks_change_no_number(pair, make_cache, run_job, monkeypatch):
    before = values(run_job(geometry, config(against=AGAINST), pair)[0])
    monkeypatch.setattr(linalg, "WORKING_BYTES", 6000)
    monkeypatch.setattr("jobs.geometry.points.BLOCK", 111)
    order = np.random.default_rng(0).permutation(40)
    turned = {}
    for name, site in (("a", "resid.0"), ("b", "resid.3")):
        rows = np.asarray(pair[name].site(Site.parse(site))[:]).reshape(40, 30, -1)[order]
        documents = [corpus()[n] for n in (order if name == "a" else 39 - order)]
        turned[name] = make_cache({site: rows.reshape(1200, -1)}, documents, name=f"{name}.turned")
    after = values(run_job(geometry, config(against=AGAINST), turned)[0])
    for name, value in before.items():
        assert after[name] == pytest.approx(value, rel=1e-6, abs=1e-8), name


def test_the_same_config_gives_the_same_numbers(make_cache, run_job):
    documents = corpus()
    cache = make_cache({"resid.0": word_rows(documents, normal(N_WORDS, 8).numpy(), 0.5)}, documents)
    assert run_job(geometry, config(), {"a": cache})[0] == run_job(geometry, config(), {"a": cache})[0]


def test_few_neighbours_are_said_to_saturate(pair, run_job):
    few = {"k": 6, "points": 40}
    with pytest.raises(
        InputError, match=r"dimension\.k = 6 is not above 8, the width of a resid\.0: .* dimension\.allow_saturated"
    ):
        run_job(geometry, config(dimension=few), pair)
    report, _ = run_job(geometry, config(dimension=few | {"allow_saturated": True}), pair)
    assert "(saturated)" in report.headline
    assert any("raise dimension.k above the width" in note for note in report.notes)


def test_what_does_not_vary_is_left_out_of_the_metrics_and_named(make_cache, run_job):
    documents = corpus()
    flat = plane(2, n=N_WORDS, width=6).numpy()
    caches = {
        "a": make_cache({"resid.0": word_rows(documents, flat)}, documents, name="small.words"),
        "b": make_cache({"resid.3": word_rows(documents, flat)}, documents, name="large.words"),
    }
    report, _ = run_job(geometry, config(against=AGAINST, dimension={"k": 30, "tau": 0.999, "points": 40}), caches)
    assert "dimension_r" not in values(report)
    assert any("dimension_r" in note for note in report.notes)


def test_too_few_points_are_refused_with_what_was_found(pair, run_job):
    with pytest.raises(InputError, match=r"dimension.k = 500 .* found 60 .* lower dimension.k"):
        run_job(geometry, config(dimension={"k": 500}), pair)


def test_skipping_every_row_is_refused(pair, run_job):
    with pytest.raises(InputError, match="set skip = 0"):
        run_job(geometry, config(skip=30), pair)


def test_rows_that_are_not_finite_are_refused(make_cache, run_job):
    documents = corpus()
    rows_RD = word_rows(documents, normal(N_WORDS, 8).numpy())
    rows_RD[77, 3] = np.inf
    cache = make_cache({"resid.0": rows_RD}, documents)
    with pytest.raises(InputError, match="not finite"):
        run_job(geometry, config(), {"a": cache})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_points": 20}, "dimension.k is 30 but n_points is 20"),
        ({"against": {"cache": "a", "site": "resid.0"}}, "against is a at resid.0"),
        ({"metric": "manhattan"}, "metric"),
        ({"permutations": 3}, "permutations"),
        ({"points": {"kind": "sentences"}}, "points"),
    ],
)
def test_a_config_that_contradicts_itself_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        config(**changes)


def test_the_job_reads_the_sites_it_names():
    reads = geometry.reads(config(against=AGAINST))
    assert [(read.cache, read.sites) for read in reads] == [("a", (Site("resid", 0),)), ("b", (Site("resid", 3),))]
    assert len(geometry.reads(config())) == 1
    assert config(points={"kind": "rows"}).points == Rows()
    assert config().points == TokenMeans()
    assert config(points={"kind": "document_means"}).points == DocumentMeans()
    assert config(against=AGAINST).sides[1] == Side(cache="b", site=Site("resid", 3))


def test_listed_strings_can_be_drawn_by_the_font():
    assert readable(" a\nb", 10) == "·a·b"
    assert readable("漢", 10) == "□"
    assert readable("abcdefgh", 5) == "ab…gh"


def test_points_that_are_all_the_same_are_refused(make_cache, run_job):
    documents = corpus()
    cache = make_cache({"resid.0": np.ones((len(word_rows(documents, normal(N_WORDS, 8).numpy())), 8))}, documents)
    with pytest.raises(InputError, match=r"a resid\.0 has the same state at all 60 points: take another site"):
        run_job(geometry, config(), {"a": cache})
