"""Plausibility and soft identifiability of a cache's labels."""

import numpy as np
import pytest
import torch

from jobs.sae.classes import _directions, classes, metrics
from jobs.sae.dictionaries import random_atoms
from jobs.sae.pooled import examples

D, VALUES = 24, ("bread", "snow", "tide")


def planted(n=1500, width=60, seed=0):
    """Documents made of one direction for each value of their label, and others, in dimensions of unequal scale."""
    rng = np.random.default_rng(seed)
    which_N = rng.integers(len(VALUES), size=n)
    z_NF = rng.random((n, width)) * (rng.random((n, width)) < 0.2)
    z_NF[:, : len(VALUES)] = np.eye(len(VALUES))[which_N] * rng.uniform(1, 2, (n, 1))
    z_NF = torch.from_numpy(z_NF.astype(np.float32))
    atoms_FD = random_atoms(width, D, seed + 7)
    scale_D = torch.linspace(0.2, 5, D)
    x_ND = (z_NF @ atoms_FD + 0.1 * torch.from_numpy(rng.standard_normal((n, D)).astype(np.float32))) / scale_D + 3
    return x_ND, z_NF, np.array(VALUES, object)[which_N], atoms_FD, scale_D


def asked(x_ND, z_NF, label_N, atoms_FD, scale_D):
    known = classes(examples(x_ND, z_NF, {"topic": label_N}, 0), atoms_FD, torch.full((D,), 3.0), scale_D)
    return {metric.name: metric for metric in metrics(known)}


@pytest.fixture(scope="module")
def found():
    return asked(*planted())


def test_atoms_that_rows_are_made_of_are_plausible_and_random_ones_less(found):
    plausible = found["plausibility.topic.scaled"]
    assert plausible.value > plausible.null + 0.1
    x_ND, z_NF, label_N, _, scale_D = planted()
    other = asked(x_ND, z_NF, label_N, random_atoms(60, D, 9), scale_D)["plausibility.topic.scaled"]
    assert other.value == pytest.approx(other.null, abs=0.1)


def test_the_probe_itself_is_wholly_plausible_in_the_space_of_training_alone():
    x_ND, z_NF, label_N, _, scale_D = planted()
    documents = examples(x_ND, z_NF, {"topic": label_N}, 0)
    probes_CD = _directions(documents, documents.concepts("topic"), scale_D)["scaled"]
    again = asked(x_ND, z_NF, label_N, probes_CD, scale_D)
    assert again["plausibility.topic.scaled"].value == pytest.approx(1, abs=1e-5)
    assert again["plausibility.topic.raw"].value < 0.95


def test_one_feature_identifies_a_value_where_one_speaks_for_it(found):
    one, published = found["identifiability.topic.one_feature"], found["identifiability.topic.fit_on_test"]
    assert one.value == pytest.approx(1)
    assert one.null == pytest.approx(2 / 3, abs=0.02)
    assert published.value >= one.value
    x_ND, z_NF, *rest = planted()
    without = asked(x_ND, z_NF[:, len(VALUES) :], *rest)["identifiability.topic.one_feature"]
    assert without.value == pytest.approx(without.null, abs=0.03)


def test_a_label_of_two_values_has_one_class_and_no_mean_class_to_take_off():
    x_ND, z_NF, label_N, *rest = planted()
    found = asked(x_ND, z_NF, np.where(label_N == "snow", "cold", "warm").astype(object), *rest)
    names = {name.removeprefix("plausibility.topic.") for name in found if name.startswith("plausibility")}
    assert names == {"raw", "scaled", "documents"}
    assert found["identifiability.topic.one_feature"].value == pytest.approx(1)
