"""Plausibility of a dictionary against classes that a classifier knows."""

import pytest
import torch

from jobs.sae.candidates import KMeans
from jobs.sae.dictionaries import random_atoms
from jobs.sae.plausibility import compared, directions, plausibility


def planted(n=600, seed=0):
    """Rows around the directions of ten classes, the directions, and what the rows were divided by."""
    random = torch.Generator().manual_seed(seed)
    classes_CD = random_atoms(10, 32, seed=seed)
    rows_ND = classes_CD[torch.arange(n) % 10] + 0.1 * torch.randn(n, 32, generator=random)
    return classes_CD, rows_ND, torch.rand(32, generator=random) * 3 + 0.1


def test_the_classes_themselves_are_wholly_plausible_and_their_negatives_are_not():
    classes_CD, _, sigma_D = planted()
    named = directions(classes_CD, sigma_D)
    assert plausibility(5 * classes_CD, {"raw": named["raw"]})["raw"] == pytest.approx(1, abs=1e-6)
    assert plausibility(-classes_CD, {"raw": named["raw"]})["raw"] < 0.6


def test_cosines_keep_their_sign():
    assert plausibility(-torch.eye(3)[:1], {"raw": torch.eye(3)[:1]})["raw"] == pytest.approx(-1)


def test_it_is_the_mean_over_classes_of_the_largest_cosine():
    classes_CD, atoms_FD = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[3.0, 3.0], [-1.0, 0.0]])
    assert plausibility(atoms_FD, {"raw": classes_CD})["raw"] == pytest.approx(0.5**0.5)


def test_each_reading_is_1_for_its_own_directions_alone():
    classes_CD, _, sigma_D = planted()
    named = directions(classes_CD + 0.5, sigma_D)
    assert set(named) == {"raw", "scaled", "centred", "scaled_centred"}
    for name, directions_CD in named.items():
        found = plausibility(directions_CD, named)
        assert found[name] == pytest.approx(1, abs=1e-6)
        assert all(value < 0.99 for other, value in found.items() if other != name)


def test_without_a_scale_there_are_two_readings():
    assert set(directions(planted()[0])) == {"raw", "centred"}


def test_the_scaled_direction_is_what_the_classifier_does_to_standardised_rows():
    classes_CD, rows_ND, sigma_D = planted()
    z_ND = (rows_ND - rows_ND.mean(0)) / sigma_D
    scores_NC = rows_ND @ classes_CD.T
    apart_NC = z_ND @ directions(classes_CD, sigma_D)["scaled"].T - scores_NC
    assert float(apart_NC.std(0).max()) < 1e-5


def test_centred_classes_do_not_see_a_shift_of_all_scores():
    classes_CD, rows_ND, _ = planted()
    shifted_CD = classes_CD + torch.arange(32) / 8
    one, other = (plausibility(rows_ND, directions(v_CD)) for v_CD in (classes_CD, shifted_CD))
    assert other["centred"] == pytest.approx(one["centred"], abs=1e-5)
    assert abs(other["raw"] - one["raw"]) > 0.1


def test_centres_of_rows_lie_between_a_random_dictionary_and_all_rows_as_atoms():
    classes_CD, rows_ND, _ = planted()
    half_FD = KMeans(n=5).draw([rows_ND], 0)
    found = compared(half_FD, directions(classes_CD), rows_ND.split(100), seed=0)
    assert list(found) == ["atoms", "random", "rows"]
    assert found["random"]["raw"] + 0.1 < found["atoms"]["raw"] < found["rows"]["raw"]


def test_rows_as_atoms_are_all_rows_whatever_the_batches():
    classes_CD, rows_ND, _ = planted()
    named = directions(classes_CD)
    assert compared(rows_ND[:4], named, rows_ND.split(7), seed=0)["rows"] == pytest.approx(plausibility(rows_ND, named))
