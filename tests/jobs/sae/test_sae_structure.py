"""Structure of a dictionary and co-firing of its features: oracles, traps, and slow references."""

import numpy as np
import pytest
import torch
from scipy.stats import hypergeom

from jobs.core import linalg
from jobs.core.linalg import unit_rows
from jobs.sae import structure
from jobs.sae.codes import Dense, Sparse
from jobs.sae.dictionaries import random_atoms
from jobs.sae.structure import CoFiring, Nearest, coherence, hull_bound, max_cosine, ranks, zero_atoms
from tests.points import normal


def orthonormal(d, seed=0):
    return torch.linalg.qr(normal(d, d, seed=seed).double()).Q.float()


def some_codes(n, width, share, seed=0):
    active = torch.rand(n, width, generator=torch.Generator().manual_seed(seed)) < share
    return normal(n, width, seed=seed + 1).abs() * active


def counted(*batches):
    cofiring = CoFiring(batches[0].shape[1])
    for z_BF in batches:
        cofiring.add(Dense(z_BF))
    return cofiring


def test_orthonormal_atoms_have_full_rank_and_no_coherence():
    atoms_FD = orthonormal(24)
    assert ranks(atoms_FD) == pytest.approx((24, 24), abs=1e-4)
    assert coherence(atoms_FD) == pytest.approx(0, abs=1e-6)


def test_atoms_on_one_line_have_rank_1_and_coherence_1():
    atoms_FD = torch.tensor([1.0, -2.0, 0.5, 3.0])[:, None] * normal(1, 300)
    assert ranks(atoms_FD) == pytest.approx((1, 1), abs=1e-4)
    assert coherence(atoms_FD) == pytest.approx(1, abs=1e-6)


def test_effective_rank_weighs_singular_values_and_not_their_squares():
    values = np.array([3.0, 1.0, 1.0])
    shares = values / values.sum()
    found = ranks(torch.diag(torch.tensor(values)))
    assert found.effective == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))
    assert found.stable == pytest.approx(11 / 9)


def test_a_shared_direction_drives_the_stable_rank_towards_1():
    atoms_FD = random_atoms(200, 32, seed=0)
    assert ranks(atoms_FD).stable > 10
    assert ranks(atoms_FD + 5 * random_atoms(1, 32, seed=1)).stable < 1.5


def test_zero_atoms_are_named_and_give_no_nan():
    atoms_FD = random_atoms(6, 8, seed=0)
    whole = coherence(atoms_FD)
    with_zeros_FD = torch.cat([atoms_FD[:2], torch.zeros(1, 8), atoms_FD[2:], torch.zeros(1, 8)])
    near = Nearest(with_zeros_FD)
    near.add(atoms_FD)
    assert zero_atoms(with_zeros_FD) == [2, 7]
    assert coherence(with_zeros_FD) == pytest.approx(whole)
    assert near.ood == pytest.approx(0, abs=1e-6)
    nothing_FD = torch.zeros(3, 8)
    assert (ranks(nothing_FD), coherence(nothing_FD)) == ((0, 0), 0)
    nowhere = Nearest(nothing_FD)
    nowhere.add(atoms_FD)
    assert nowhere.ood == 1


def test_coherence_sees_pairs_across_blocks(monkeypatch):
    atoms_FD = random_atoms(40, 16, seed=3)
    atoms_FD[31] = unit_rows(0.3 * atoms_FD[31:32] - atoms_FD[2:3])
    alike = abs(float(atoms_FD[31] @ atoms_FD[2]))
    monkeypatch.setattr(linalg, "WORKING_BYTES", 4 * 40 * 7)
    assert 0.9 < alike < 0.99
    assert coherence(atoms_FD) == pytest.approx(alike)


def test_atoms_copied_from_the_data_lie_in_it_and_their_rows_are_found():
    x_ND = normal(500, 16)
    taken = torch.tensor([7, 499, 130, 256])
    near = Nearest(3 * x_ND[taken])
    for x_BD in x_ND.split(128):
        near.add(x_BD)
    assert near.ood <= 1e-6
    assert near.row_F.tolist() == taken.tolist()
    assert near.n == 500


def test_ood_is_the_exact_maximum_over_every_batch_and_block(monkeypatch):
    atoms_FD, x_ND = normal(30, 6), normal(400, 6, seed=1)
    x_ND[50] = 0  # a row without direction must not win with its cosine of 0
    cosine_FN = unit_rows(atoms_FD.double()) @ unit_rows(x_ND.double()).T
    cosine_FN[:, 50] = -2
    monkeypatch.setattr(linalg, "WORKING_BYTES", 4 * 64 * 7)
    near = Nearest(atoms_FD)
    for x_BD in x_ND.split(64):
        near.add(x_BD)
    assert near.ood == pytest.approx(1 - float(cosine_FN.max(1).values.mean()), abs=1e-6)
    assert near.row_F.tolist() == cosine_FN.argmax(1).tolist()


def test_rows_about_their_mean_give_another_ood_than_rows_as_stored():
    x_ND = normal(300, 8) + 20
    stored, about_mean = Nearest(random_atoms(20, 8, 0)), Nearest(random_atoms(20, 8, 0))
    stored.add(x_ND)
    about_mean.add(x_ND - x_ND.mean(0))
    assert stored.ood > about_mean.ood + 0.3


def test_a_zero_row_is_passed_over_even_by_atoms_that_point_away_from_all_others():
    near = Nearest(torch.tensor([[-1.0, 0.0]]))
    near.add(torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
    assert near.cosine_F.tolist() == pytest.approx([-(0.5**0.5)])
    assert near.row_F.tolist() == [1]


def test_max_cosine_is_over_all_pairs_of_two_dictionaries():
    a_FD, b_GD = normal(10, 5), normal(13, 5, seed=1)
    assert max_cosine(a_FD, b_GD) == pytest.approx(float((unit_rows(a_FD) @ unit_rows(b_GD).T).max()))


def test_atoms_in_the_hull_of_orthonormal_points_keep_the_bound_of_f4():
    points_ND = orthonormal(20)
    weights_FN = torch.rand(50, 20, generator=torch.Generator().manual_seed(1)) ** 4
    weights_FN /= weights_FN.sum(1, keepdim=True)
    near = Nearest(weights_FN @ points_ND)
    near.add(points_ND)
    assert bool((1 - near.cosine_F <= hull_bound(weights_FN) + 1e-6).all())
    assert bool((1 - near.cosine_F > hull_bound(weights_FN) - 0.5).all())


def test_codes_that_are_never_zero_cover_every_pair():
    coverage = counted(torch.rand(50, 12) + 0.1).pair_coverage()
    assert (coverage.value, coverage.connectivity, coverage.null) == (1, 0, 1)


@pytest.mark.parametrize("share", [0.02, 0.3])
@pytest.mark.parametrize("threshold", [0, 2])
def test_pair_coverage_counts_the_entries_of_the_dense_product(share, threshold):
    z_NF = some_codes(300, 60, share)
    fired = (z_NF != 0).double()
    coverage = counted(*z_NF.split(64)).pair_coverage(threshold)
    assert coverage.value == float((fired.T @ fired > threshold).double().mean())
    assert (coverage.n, coverage.threshold) == (300, threshold)


def test_codes_that_cancel_have_fired_together():
    z_NF = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    assert counted(z_NF).pair_coverage().value == 1


@pytest.mark.parametrize("held", [1, 1 << 23])
def test_sparse_dense_and_batched_codes_give_the_same_counts(held, monkeypatch):
    monkeypatch.setattr(structure, "_HELD", held)
    z_NF = some_codes(200, 40, 0.1)
    features_NK = z_NF.topk(8, dim=1).indices.sort(dim=1).values
    sparse = Sparse.even(z_NF.gather(1, features_NK), features_NK)
    kept_NF = torch.zeros_like(z_NF).scatter(1, features_NK, z_NF.gather(1, features_NK))
    from_sparse, atoms_FD = CoFiring(40), normal(40, 6)
    from_sparse.add(sparse)
    from_dense = counted(*kept_NF.split(33))
    assert from_sparse.n == from_dense.n == 200
    assert from_sparse.pair_coverage() == from_dense.pair_coverage()
    assert from_sparse.interference(atoms_FD) == pytest.approx(from_dense.interference(atoms_FD))


@pytest.mark.parametrize("threshold", [0, 1, 3])
def test_the_null_is_exactly_that_of_firings_moved_to_random_rows(threshold):
    fired_NF = some_codes(30, 8, 0.3) != 0
    fired_NF[:, 0], fired_NF[:, 1] = True, False
    counts_F, sums = fired_NF.sum(0).numpy(), 0.0
    for i, j in ((i, j) for i in range(8) for j in range(8)):
        sums += counts_F[i] > threshold if i == j else hypergeom.sf(threshold, 30, counts_F[i], counts_F[j])
    assert counted(fired_NF.float()).pair_coverage(threshold).null == pytest.approx(sums / 64, abs=1e-9)


def test_pairs_of_independent_features_are_as_many_as_by_chance_and_of_grouped_ones_are_fewer():
    independent = counted(some_codes(400, 150, 0.05)).pair_coverage()
    assert independent.value == pytest.approx(independent.null, abs=0.01)
    group_N = torch.arange(400) % 10
    grouped_NF = some_codes(400, 150, 0.5) * (torch.arange(150)[None] % 10 == group_N[:, None])
    grouped = counted(grouped_NF).pair_coverage()
    assert grouped.value < 0.2 < grouped.null


@pytest.mark.parametrize("share", [0.03, 0.5])
def test_interference_is_the_spectral_norm_of_the_negative_part(share, monkeypatch):
    monkeypatch.setattr(linalg, "WORKING_BYTES", 4 * 80 * 17)
    z_NF, atoms_FD = some_codes(250, 80, share), normal(80, 12) * torch.arange(1, 81)[:, None]
    gram_FF = (z_NF.T @ z_NF).double().numpy()
    found = counted(*z_NF.split(100)).interference(atoms_FD)
    for value, atoms in ((found.per_row, atoms_FD), (found.unit, unit_rows(atoms_FD))):
        overlap_FF = (atoms.double() @ atoms.double().T).numpy()
        assert value == pytest.approx(np.linalg.norm(np.maximum(-gram_FF * overlap_FF, 0), 2) / 250, rel=1e-5)
    assert found.raw == pytest.approx(250 * found.per_row)


def test_atoms_that_never_oppose_each_other_do_not_interfere():
    assert counted(some_codes(100, 30, 0.5)).interference(normal(30, 8).abs()) == (0, 0, 0)


def test_interference_grows_with_the_rows_and_per_row_does_not():
    z_NF, atoms_FD = some_codes(100, 20, 0.3), normal(20, 6)
    once, thrice = counted(z_NF).interference(atoms_FD), counted(z_NF, z_NF, z_NF).interference(atoms_FD)
    assert thrice.raw == pytest.approx(3 * once.raw)
    assert thrice.per_row == pytest.approx(once.per_row)


def test_nothing_fired_and_nothing_seen_are_no_errors():
    silent, unused = counted(torch.zeros(10, 5)), CoFiring(5)
    assert (silent.pair_coverage().value, silent.pair_coverage().null, silent.pair_coverage().n) == (0, 0, 10)
    assert silent.interference(normal(5, 3)) == unused.interference(normal(5, 3)) == (0, 0, 0)
    assert (unused.pair_coverage().value, unused.pair_coverage().null) == (0, 0)
