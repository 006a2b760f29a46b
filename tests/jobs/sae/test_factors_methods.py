"""What methods find: analytic answers, planted vertices, scikit-learn's errors, and errors that never rise."""

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from sklearn.datasets import load_digits

from jobs import factors
from jobs.factors.codings import NonNegative, Shares
from jobs.factors.fitted import Fitted
from jobs.factors.mixtures import furthest_sum
from jobs.factors.solve import simplex
from storage import InputError


def tensor(x):
    return torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def error(fitted, x):
    """|X - Z A|^2 over |X - mean|^2."""
    left = x - fitted.decode(fitted.encode(x))
    return float(left.square().sum() / (x - x.mean(0)).square().sum())


@pytest.fixture(scope="module")
def digits():
    """Pixels from 0 to 1; the first pixel never moves."""
    return tensor(load_digits().data[:400] / 16)


@pytest.fixture(scope="module")
def parts():
    """3000 rows of 6 non-negative atoms and noise, and the atoms themselves as rows; the atoms."""
    rng = np.random.default_rng(3)
    atoms = rng.gamma(0.5, 1, (6, 20))
    codes = rng.gamma(1, 1, (3000, 6)) * (rng.random((3000, 6)) < 0.3)
    codes[np.arange(3000), rng.integers(0, 6, 3000)] += 0.5
    rows = np.maximum(codes @ atoms + 0.3 * rng.standard_normal((3000, 20)), 0)
    return tensor(np.vstack([rows, 2 * atoms])), tensor(atoms)


@pytest.fixture(scope="module")
def simplex4():
    """2000 points uniform in the hull of 4 vertices, and the vertices."""
    rng = np.random.default_rng(0)
    vertices = 2 * rng.standard_normal((4, 12))
    return tensor(rng.dirichlet(np.ones(4), 2000) @ vertices), vertices


@pytest.mark.parametrize("width", [1, 5, 20])
def test_pca_leaves_the_trailing_eigenvalues(digits, width):
    spectrum = np.linalg.eigvalsh(np.cov(digits.double().numpy().T))[::-1]
    assert error(factors.Pca().fit(digits, width, 0), digits) == pytest.approx(
        spectrum[width:].sum() / spectrum.sum(), abs=1e-5
    )


def test_pca_with_keep_has_the_largest_of_all_its_codes(digits):
    fitted = factors.Pca(keep=3).fit(digits, 20, 0)
    all_NF = (digits - fitted.offset_D) @ fitted.atoms_FD.T
    order_NF = (-all_NF.abs()).argsort(1)
    expected_NF = torch.zeros_like(all_NF).scatter(1, order_NF[:, :3], all_NF.gather(1, order_NF[:, :3]))
    assert torch.allclose(fitted.encode(digits), expected_NF, atol=1e-4)


def test_ica_finds_planted_sources_and_spans_what_pca_does(digits):
    rng = np.random.default_rng(0)
    sources, mixing = rng.laplace(size=(4000, 3)), rng.standard_normal((3, 8))
    fitted = factors.Ica().fit(tensor(sources @ mixing + 5), 3, 0)
    cosine = np.abs(unit(fitted.atoms_FD.numpy()) @ unit(mixing).T)
    assert cosine.max(0).min() > 0.99
    assert fitted.encode(tensor(sources @ mixing + 5)).std(0).numpy() == pytest.approx(np.ones(3), abs=0.02)
    both = [error(method.fit(digits, 12, 0), digits) for method in (factors.Ica(), factors.Pca())]
    assert both[0] == pytest.approx(both[1], abs=1e-4)


def test_kmeans_codes_are_one_for_the_nearest_centre(digits):
    fitted = factors.KMeans().fit(digits, 12, 0)
    z_NF = fitted.encode(digits)
    assert torch.equal(z_NF.argmax(1), torch.cdist(digits, fitted.atoms_FD).argmin(1))
    assert (z_NF.sum(1) == 1).all()
    assert ((z_NF == 0) | (z_NF == 1)).all()


def test_nmf_is_refused_a_negative_entry_and_finds_no_negative_atom(digits):
    with pytest.raises(InputError, match="least of the 400 normalised rows is -1"):
        factors.Nmf().fit(digits - 1, 4, 0)
    fitted = factors.Nmf(sweeps=5).fit(digits, 6, 0)
    assert (fitted.atoms_FD >= 0).all()
    assert fitted.remarks == ("NMF had not converged after 5 sweeps.",)


def test_semi_and_convex_nmf_come_within_five_percent_of_nmf(parts):
    x, atoms = parts
    kinds = factors.Nmf(), factors.SemiNmf(), factors.ConvexNmf()
    nmf, semi, convex = (error(method.fit(x, 6, 0), x) ** 0.5 for method in kinds)
    assert semi <= 1.05 * nmf
    assert convex <= 1.05 * nmf
    assert convex <= 1.01 * error(Fitted(atoms, NonNegative(None)), x) ** 0.5


def test_semi_nmf_explains_more_than_nmf_where_rows_go_both_ways(digits):
    x = digits - digits.mean(0)
    assert error(factors.SemiNmf().fit(x, 16, 0), x) < error(factors.KMeans().fit(x, 16, 0), x) - 0.2


def test_a_fit_that_knows_how_many_features_a_row_keeps_beats_a_cut_behind_it(digits):
    known = factors.SemiNmf(keep=3).fit(digits, 16, 0)
    cut = Fitted(factors.SemiNmf().fit(digits, 16, 0).atoms_FD, NonNegative(3))
    assert error(known, digits) < 0.7 * error(cut, digits)
    assert (np.diff(known.errors) <= 1e-7).all()


@pytest.mark.parametrize("method", [factors.SemiNmf(), factors.ConvexNmf(), factors.Archetypes(sweeps=30)], ids=str)
def test_the_error_never_rises_and_is_that_of_the_codes_for_new_rows(digits, method):
    fitted = method.fit(digits, 16, 1)
    assert len(fitted.errors) > 5
    assert (np.diff(fitted.errors) <= 1e-7).all()
    assert error(fitted, digits) <= fitted.errors[-1] + 1e-3
    z_NF = fitted.encode(digits)
    assert (z_NF >= 0).all()
    if isinstance(method, factors.Archetypes):
        assert z_NF.sum(1).numpy() == pytest.approx(np.ones(400), abs=1e-5)


def test_archetypes_recover_the_vertices_of_a_simplex(simplex4):
    x, vertices = simplex4
    for seed in range(3):
        fitted = factors.Archetypes().fit(x, 4, seed)
        assert 1 - error(fitted, x) >= 0.99
        cosine = unit(fitted.atoms_FD.numpy()) @ unit(vertices).T
        assert sorted(cosine.argmax(1)) == [0, 1, 2, 3]
        assert cosine.max(0).min() >= 0.99


@pytest.mark.parametrize("method", [factors.ConvexNmf(sweeps=30), factors.Archetypes(sweeps=30)], ids=str)
def test_atoms_are_the_mixtures_of_rows_that_they_are_said_to_be(digits, method):
    fitted = method.fit(digits, 16, 0)
    weights_FM, rows_FM = fitted.mixture.weights_FM, fitted.mixture.rows_FM
    points = digits if isinstance(method, factors.Archetypes) else torch.cat([digits, fitted.start_FD])
    mixed = torch.einsum("fm,fmd->fd", weights_FM, points[rows_FM].double())
    assert torch.allclose(mixed.float(), fitted.atoms_FD, atol=1e-5)
    assert (weights_FM >= 0).all()
    assert weights_FM.sum(1).numpy() == pytest.approx(np.ones(16), abs=1e-9)


def test_atoms_of_convex_nmf_lie_in_the_hull_of_the_rows(digits):
    fitted = factors.ConvexNmf().fit(digits, 8, 0)
    system = np.vstack([digits.double().numpy().T, 100 * np.ones(len(digits))])
    for atom in fitted.atoms_FD.double().numpy():
        assert nnls(system, np.append(atom, 100))[1] < 1e-4


@pytest.mark.parametrize("spread", [1.0, 0.1])
def test_codes_are_those_of_non_negative_least_squares(spread):
    """With a spread of .1 all atoms point nearly the same way."""
    rng = np.random.default_rng(0)
    atoms, x = rng.standard_normal((30, 20)) * spread + 1, rng.standard_normal((50, 20)) + 0.5
    z = NonNegative(None).codes(tensor(x), tensor(atoms), tensor(atoms)).double().numpy()
    assert (z >= 0).all()
    for row, codes in zip(x, z, strict=True):
        _, best = nnls(tensor(atoms).double().numpy().T, row)
        assert np.linalg.norm(codes @ atoms - row) == pytest.approx(best, rel=1e-3)


def test_codes_with_keep_are_at_most_so_many_and_fitted_again(digits):
    fitted = factors.SemiNmf(keep=4).fit(digits, 16, 0)
    z_NF = fitted.encode(digits)
    assert ((z_NF != 0).sum(1) <= 4).all()
    for row, codes in zip(digits[:40].double().numpy(), z_NF[:40].double().numpy(), strict=True):
        kept = fitted.atoms_FD.double().numpy()[codes > 0]
        best = np.linalg.norm(row - nnls(kept.T, row)[0] @ kept)
        assert np.linalg.norm(row - codes[codes > 0] @ kept) == pytest.approx(best, rel=1e-4)


def test_a_planted_sparse_code_is_found_by_pursuit():
    rng = np.random.default_rng(0)
    atoms = unit(rng.standard_normal((40, 64)))
    z = np.zeros((200, 40))
    for row in z:
        row[rng.choice(40, 4, replace=False)] = rng.uniform(1, 2, 4)
    found = NonNegative(4).codes(tensor(z @ atoms), tensor(atoms), tensor(atoms)).numpy()
    assert ((found > 1e-3) == (z > 0)).all(1).mean() > 0.95


def test_shares_are_the_nearest_point_of_the_hull(simplex4):
    x, vertices = simplex4
    z = Shares(None).codes(x, tensor(vertices), tensor(vertices))
    assert torch.allclose(z @ tensor(vertices), x, atol=1e-3)
    outside = tensor(10 * vertices)
    away = Shares(2).codes(outside, tensor(vertices), tensor(vertices))
    assert ((away > 0).sum(1) <= 2).all()
    assert away.sum(1).numpy() == pytest.approx(np.ones(4), abs=1e-5)


def test_the_projection_on_the_simplex_is_the_nearest_point():
    z = tensor(np.random.default_rng(0).standard_normal((100, 7)) * 3)
    found = simplex(z)
    assert found.sum(1).numpy() == pytest.approx(np.ones(100), abs=1e-5)
    assert (found >= 0).all()
    gap = (z - found).double()  # of the nearest point: the same where shares are positive, no larger where they are 0
    assert torch.where(found > 0, gap.amax(1, keepdim=True) - gap, 0).abs().max() < 1e-5


def test_furthest_sum_chooses_different_rows_at_the_edge(simplex4):
    x, vertices = simplex4
    rows = furthest_sum(x, 4, seed=0)
    assert len(set(rows.tolist())) == 4
    cosine = unit(x[rows].numpy()) @ unit(vertices).T
    assert sorted(cosine.argmax(1)) == [0, 1, 2, 3]


def test_a_row_has_the_same_codes_whatever_rows_are_beside_it(digits):
    fitted = factors.SemiNmf().fit(digits, 16, 0)
    assert torch.allclose(fitted.encode(digits)[:50], fitted.encode(digits[:50]), atol=1e-4)
