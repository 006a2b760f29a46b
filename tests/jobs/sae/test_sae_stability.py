"""Stability: assignment of atoms, its starts and nulls, and the two ways in which it deceives."""

from itertools import permutations

import pytest
import torch
from sklearn.datasets import load_digits

from jobs.core.linalg import centred, unit_rows
from jobs.sae.candidates import KMeans
from jobs.sae.dictionaries import random_atoms
from jobs.sae.stability import agreement, match, mcc, stability, without_direction, without_mean


def shuffled(atoms_FD, seed=0, flip=False):
    random = torch.Generator().manual_seed(seed)
    signs_F1 = torch.randint(0, 2, (len(atoms_FD), 1), generator=random) * 2.0 - 1
    lengths_F1 = torch.rand(len(atoms_FD), 1, generator=random) + 0.5
    order_F = torch.randperm(len(atoms_FD), generator=random)
    return (atoms_FD * lengths_F1 * (signs_F1 if flip else 1))[order_F]


def test_a_permuted_and_rescaled_dictionary_is_the_same():
    atoms_FD = random_atoms(40, 16, seed=0)
    assert agreement([atoms_FD, shuffled(atoms_FD)]) == pytest.approx(1, abs=1e-6)


def test_flipped_atoms_are_the_same_only_where_signs_are_free():
    atoms_FD = random_atoms(40, 16, seed=0)
    flipped_FD = shuffled(atoms_FD, flip=True)
    assert agreement([atoms_FD, flipped_FD], signed=True) == pytest.approx(1, abs=1e-6)
    assert agreement([atoms_FD, flipped_FD]) < 0.9


@pytest.mark.parametrize("signed", [False, True])
def test_no_other_permutation_does_better(signed):
    one_FD, other_FD = random_atoms(6, 4, seed=1), random_atoms(6, 4, seed=2)
    cosine_FF = unit_rows(one_FD) @ unit_rows(other_FD).T
    cosine_FF = cosine_FF.abs() if signed else cosine_FF
    best = max(sum(cosine_FF[i, j] for i, j in enumerate(order)) for order in permutations(range(6)))
    assert agreement([one_FD, other_FD], signed) == pytest.approx(float(best) / 6, abs=1e-6)


def test_the_assignment_is_one_to_one_also_between_different_sizes():
    found = match(random_atoms(9, 4, seed=1), random_atoms(30, 4, seed=2))
    assert sorted(found.first_M) == list(range(9))
    assert len(set(found.second_M)) == 9


def test_several_runs_are_compared_pair_by_pair():
    runs = [random_atoms(20, 8, seed=seed) for seed in range(3)]
    pairs = [agreement([runs[i], runs[j]]) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert agreement(runs) == pytest.approx(sum(pairs) / 3)
    with pytest.raises(ValueError, match="2 dictionaries are needed, 1 given"):
        agreement(runs[:1])


def test_a_zero_atom_agrees_with_nothing():
    atoms_FD = random_atoms(4, 4, seed=0)
    with_zero_FD = torch.cat([atoms_FD[:3], torch.zeros(1, 4)])
    assert agreement([with_zero_FD, with_zero_FD]) == pytest.approx(0.75, abs=1e-6)


def test_mcc_counts_planted_atoms_that_were_not_found():
    truth_GD = torch.eye(8)
    assert mcc(torch.cat([shuffled(truth_GD), random_atoms(20, 8, seed=1)]), truth_GD) == pytest.approx(1, abs=1e-6)
    assert mcc(truth_GD[:6], truth_GD) == pytest.approx(0.75, abs=1e-6)
    assert mcc(-truth_GD, truth_GD, signed=True) == pytest.approx(1, abs=1e-6)


def test_the_null_is_that_of_two_random_dictionaries_of_the_size():
    runs = [random_atoms(48, 32, seed=seed) for seed in (10, 11)]
    found = stability(runs, runs)
    assert found.null == pytest.approx(found.final, abs=0.03)
    assert found.drawn is None


def test_runs_that_learn_the_same_atoms_stabilise():
    truth_FD = random_atoms(48, 32, seed=0)
    starts = [random_atoms(48, 32, seed=seed) for seed in (1, 2)]
    ends = [shuffled(truth_FD + 0.05 * start_FD, seed) for seed, start_FD in enumerate(starts)]
    found = stability(ends, starts)
    assert found.final > 0.95
    assert found.stabilisation == found.final - found.initial
    assert found.stabilisation > 0.3
    assert found.remarks == ()


def test_runs_that_start_alike_and_part_are_said_to_agree_by_their_start():
    start_FD = random_atoms(30, 16, seed=0)
    ends = [start_FD + 0.1 * random_atoms(30, 16, seed=seed) for seed in (1, 2)]
    found = stability(ends, [start_FD, start_FD], random_atoms(200, 16, seed=3))
    assert found.final > 0.95
    assert found.initial == pytest.approx(1, abs=1e-6)
    assert found.stabilisation < 0
    assert not found.inflated
    assert len(found.remarks) == 1
    assert "starts agree already" in found.remarks[0]


def non_negative_rows():
    """Sparse positive rows with a mean that every one of them has a good part of."""
    random = torch.Generator().manual_seed(0)
    return 1 + torch.rand(600, 32, generator=random) + 2 * (torch.rand(600, 32, generator=random) < 0.1)


def digits():
    return torch.from_numpy(load_digits().data).float()


def flagged(x_ND, width=40):
    """What is said of points of x by themselves, for dictionaries that are nothing but such points."""
    runs = [KMeans(n=width).draw([x_ND], seed) for seed in (0, 1)]
    return stability(runs, runs, x_ND)


@pytest.mark.parametrize("rows", [non_negative_rows, digits])
def test_a_mean_direction_that_inflates_cosines_is_flagged_and_centring_removes_the_flag(rows):
    x_ND = rows()
    raw, about_mean = flagged(x_ND), flagged(centred(x_ND))
    assert raw.drawn > 0.85
    assert raw.inflated
    assert "inflated by mean direction" in raw.remarks[0]
    assert about_mean.drawn < raw.drawn - 0.1
    assert not about_mean.inflated
    assert about_mean.remarks == ()


def test_points_are_drawn_twice_without_a_point_in_both():
    x_ND = torch.eye(40)
    assert stability([x_ND[:25], x_ND[:25]], [x_ND[:25], x_ND[:25]], x_ND).drawn == 0


def test_atoms_can_be_centred_themselves():
    mean_D = 3 * random_atoms(1, 16, seed=9)[0]
    runs = [random_atoms(30, 16, seed=seed) + mean_D for seed in (0, 1)]
    assert agreement(runs) > 0.9
    alone = agreement([random_atoms(30, 16, seed=seed) for seed in (0, 1)])
    assert agreement([without_mean(atoms_FD) for atoms_FD in runs]) == pytest.approx(alone, abs=0.08)
    off_mean = [without_direction(atoms_FD, mean_D) for atoms_FD in runs]
    assert float((off_mean[0] @ mean_D).abs().max()) < 1e-5
    assert agreement(off_mean) == pytest.approx(alone, abs=0.08)
