"""Whether two spaces agree on which of their points are alike, all pairs at once."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from jobs.core import linalg
from jobs.core.linalg import unit_rows
from jobs.geometry.similarity import cross_sum, pearson, row_sums, similarity
from tests.points import normal, rotation


def dense_r(x_ND, y_NE, first=1):
    """Pearson r of all pairwise dot products from the `first` diagonal up, the slow way."""
    upper = np.triu_indices(len(x_ND), first)
    a, b = ((z.double() @ z.double().T).numpy()[upper] for z in (x_ND, y_NE))
    return np.corrcoef(a, b)[0, 1]


def r_of(x_ND, y_NE):
    n = len(x_ND)
    return float(pearson(row_sums(x_ND, y_NE).sum(0), n * (n - 1)))


def test_similarity_is_the_pearson_r_of_all_pairs_for_dot_products_and_cosines():
    x_ND = normal(150, 12) + 0.5
    y_NE = normal(150, 7, seed=1) + x_ND[:, :7]
    assert r_of(x_ND, y_NE) == pytest.approx(dense_r(x_ND, y_NE), abs=1e-9)
    assert r_of(unit_rows(x_ND), unit_rows(y_NE)) == pytest.approx(dense_r(unit_rows(x_ND), unit_rows(y_NE)), abs=1e-9)


def test_independent_points_do_not_agree_though_with_the_diagonal_they_would():
    x_ND, y_NE = unit_rows(normal(100, 64)), unit_rows(normal(100, 96, seed=1))
    assert dense_r(x_ND, y_NE, first=0) > 0.5
    assert abs(r_of(x_ND, y_NE)) < 0.06
    found = similarity(x_ND, y_NE, 20, 200, seed=0)
    assert abs(found.null_P.mean()) < 0.02
    assert found.low < 0 < found.high


def test_rotated_points_in_more_dimensions_agree_fully_and_permuted_ones_do_not():
    x_ND = unit_rows(normal(300, 20))
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
    x_ND, y_NE = unit_rows(normal(60, 6)), unit_rows(normal(60, 6) + normal(60, 6, seed=1))
    found = similarity(x_ND, y_NE, 20, 100, seed=0)
    others = [i for i in range(60) if i != 7]
    expected = np.corrcoef((x_ND[others] @ x_ND[7]).numpy(), (y_NE[others] @ y_NE[7]).numpy())[0, 1]
    assert float(found.point_r_N[7]) == pytest.approx(expected, abs=1e-5)


def test_the_interval_is_that_of_points_drawn_again_in_full():
    x_ND = unit_rows(normal(250, 10))
    y_ND = unit_rows(x_ND + 0.6 * unit_rows(normal(250, 10, seed=1)))
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
    assert r_of(unit_rows(x_ND), unit_rows(x_ND @ rotation(384, wider=512).double())) == pytest.approx(1, abs=1e-9)
    table = x_ND * torch.linspace(2, 0.5, 384) + 0.3  # word tables are neither isotropic nor centred
    for noise in (0.25, 0.5, 1.0, 2.0):
        noisy = table + noise * table.std() * normal(1500, 384, seed=4)
        blockwise, dense = r_of(unit_rows(table), unit_rows(noisy)), dense_r(unit_rows(table), unit_rows(noisy))
        assert blockwise == pytest.approx(dense, abs=1e-9)
    independent = unit_rows(normal(2000, 48)), unit_rows(normal(2000, 64, seed=1))
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
