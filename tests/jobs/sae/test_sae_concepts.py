"""TPP and SCR on planted concepts: the right features move the right probe, random ones do not."""

import numpy as np
import pytest
import torch

from jobs.sae.binary import Plane
from jobs.sae.concepts import Zeroing, metrics, notes, tpp
from jobs.sae.pooled import examples
from jobs.sae.spurious import metrics as scr_metrics
from jobs.sae.spurious import notes as scr_notes
from jobs.sae.spurious import scr

WIDTH, D = 40, 64


def world(planted, n=1200, seed=0, error=0.05):
    """Documents with a feature for every (place, has_N, strength), background features, and an error of the SAE."""
    rng = np.random.default_rng(seed)
    atoms_FD = np.linalg.qr(rng.standard_normal((D, D)))[0][:WIDTH]
    z_NF = rng.random((n, WIDTH)) * 0.2
    for place, has_N, strength in planted:
        z_NF[:, place] = has_N * strength * (1 + 0.05 * rng.standard_normal(n))
    x_ND = z_NF @ atoms_FD + error * rng.standard_normal((n, D)) + rng.standard_normal(D)
    return [torch.from_numpy(one.astype(np.float32)) for one in (x_ND, z_NF, atoms_FD)]


def text(has_N, yes="yes", no="no"):
    return np.where(has_N, yes, no).astype(object)


@pytest.fixture(scope="module")
def two_concepts():
    rng = np.random.default_rng(1)
    a_N, b_N = (rng.random(1200) < 0.5 for _ in range(2))
    x_ND, z_NF, atoms_FD = world([(3, a_N, 1.0), (4, ~a_N, 1.0), (7, b_N, 1.0), (8, ~b_N, 1.0)])
    return examples(x_ND, z_NF, {"a": text(a_N), "b": text(b_N)}, 0), atoms_FD


def test_zeroing_a_planted_concept_hurts_its_own_probe_and_no_other(two_concepts):
    found, missing = tpp(*two_concepts)
    assert missing == ()
    for one in found:
        assert one.clean > 0.98
        assert one.drops[2].own >= 0.4
        assert abs(one.drops[2].others) <= 0.02
        assert one.drops[2].score == one.drops[2].own - one.drops[2].others


def test_as_many_random_features_do_nothing(two_concepts):
    found, _ = tpp(*two_concepts)
    for one in found:
        assert abs(one.drops[2].null) < 0.25 * one.drops[2].score


def test_a_concept_that_only_one_of_two_values_has_a_feature_for_is_found_whichever_is_asked_about():
    has_N, other_N = (np.random.default_rng(seed).random(1200) < 0.5 for seed in (4, 5))
    x_ND, z_NF, atoms_FD = world([(3, has_N, 1.0), (7, other_N, 1.0)])
    for labels in ({"a": text(has_N)}, {"a": text(~has_N)}):
        found, _ = tpp(examples(x_ND, z_NF, labels | {"b": text(other_N)}, 0), atoms_FD)
        assert found[0].drops[2].own >= 0.4


def test_one_feature_for_both_concepts_is_not_targeted(two_concepts):
    documents, atoms_FD = two_concepts
    mixed_FD, z_NF = atoms_FD.clone(), documents.z_NF.clone()
    mixed_FD[3], z_NF[:, 3] = atoms_FD[3] + atoms_FD[7], documents.z_NF[:, 3] + documents.z_NF[:, 7]
    z_NF[:, 7] = 0
    z_NF[:, [4, 8]] = 0
    found, _ = tpp(examples(documents.x_ND, z_NF, documents.labels, 0), mixed_FD)
    assert all(one.drops[2].others > 0.2 for one in found)


def test_values_of_one_label_are_each_others_control():
    which_N = np.random.default_rng(2).integers(4, size=1200)
    x_ND, z_NF, atoms_FD = world([(place, which_N == place, 1.0) for place in range(4)])
    label_N = np.array(list("wxyz"), object)[which_N]
    (one,), missing = tpp(examples(x_ND, z_NF, {"letter": label_N}, 0), atoms_FD)
    assert missing == ()
    assert one.others == "its other values"
    assert one.drops[2].own >= 0.4
    assert one.drops[5].others < 0.2  # the features of the other values do not speak for a value
    assert sorted(one.drops) == [2, 5, 10, 20, 40]
    assert [metric.name for metric in metrics([one])] == [f"tpp.letter.n{n}" for n in (2, 5, 10, 20, 40)]
    assert "its other values" in notes([one], missing)[0]


def test_a_lone_label_of_two_values_has_nothing_to_compare_with(two_concepts):
    documents, atoms_FD = two_concepts
    found, missing = tpp(examples(documents.x_ND, documents.z_NF, {"a": documents.labels["a"]}, 0), atoms_FD)
    assert found == ()
    assert missing[0].startswith("No TPP for a:")


def test_zeroing_what_is_pooled_is_pooling_what_is_zeroed():
    rng = np.random.default_rng(0)
    x_NTD, z_NTF, atoms_FD, w_D = (
        torch.from_numpy(rng.standard_normal(shape).astype(np.float32))
        for shape in ((6, 9, 5), (6, 9, 12), (12, 5), (5,))
    )
    error_NTD = x_NTD - z_NTF @ atoms_FD
    kept_NTF = z_NTF.clone()
    kept_NTF[..., [2, 8]] = 0
    slow_N = (kept_NTF @ atoms_FD + error_NTD).mean(1) @ w_D + 0.5
    documents = examples(x_NTD.mean(1), z_NTF.mean(1), {}, 0)
    at_M = torch.tensor([5, 0, 3])
    zeroing = Zeroing(documents, at_M, atoms_FD, [Plane(w_D, 0.5), Plane(-w_D, 0)])
    fast_MU = zeroing.scores(torch.tensor([2, 8]))
    torch.testing.assert_close(fast_MU[:, 0], slow_N[at_M])
    torch.testing.assert_close(fast_MU[:, 1], 0.5 - slow_N[at_M])
    torch.testing.assert_close(zeroing.clean_MU[:, 0], x_NTD.mean(1)[at_M] @ w_D + 0.5)


def test_random_features_are_different_ones_that_are_not_always_silent(two_concepts):
    documents, atoms_FD = two_concepts
    z_NF = documents.z_NF.clone()
    z_NF[:, 5:] = 0
    silenced = examples(documents.x_ND, z_NF, documents.labels, 0)
    draws = Zeroing(silenced, torch.arange(100), atoms_FD, [Plane(atoms_FD[0], 0.0)]).random(4)
    assert all(len(set(draw.tolist())) == 4 and draw.max() < 5 for draw in draws)
    assert len({tuple(draw.tolist()) for draw in draws}) > 1


@pytest.fixture(scope="module")
def spurious_pair():
    """Job and sex, each of two features; sex is the louder."""
    rng = np.random.default_rng(3)
    job_N, sex_N = (rng.random(1600) < 0.5 for _ in range(2))
    planted = [(3, job_N, 1.0), (4, ~job_N, 1.0), (7, sex_N, 2.0), (8, ~sex_N, 2.0)]
    x_ND, z_NF, atoms_FD = world(planted, n=1600, error=0.15)
    return examples(x_ND, z_NF, {"job": text(job_N), "sex": text(sex_N)}, 0), atoms_FD


def test_a_spurious_cue_is_removed_with_its_features_and_not_with_random_ones(spurious_pair):
    found, missing = scr(*spurious_pair)
    job = next(one for one in found if one.wanted == "job")
    assert job.spurious == "sex"
    assert job.clean > 0.98
    assert job.biased < 0.7
    assert job.mended[2].score > 0.9
    assert abs(job.mended[2].null) < 0.25
    assert not any("job with sex" in line for line in missing)
    assert "scr.job.without.sex.n2" in {metric.name for metric in scr_metrics(found)}
    assert "threshold" in scr_notes(found, missing)[0]


def test_the_louder_label_needs_no_mending_and_the_reason_is_given(spurious_pair):
    found, missing = scr(*spurious_pair)
    assert [one.wanted for one in found] == ["job"]
    assert missing[0].startswith("No SCR of sex with job: a probe trained where they go together is right")


def test_labels_that_always_go_together_cannot_be_told_apart():
    has_N = np.random.default_rng(0).random(600) < 0.5
    x_ND, z_NF, atoms_FD = world([(3, has_N, 1.0)], n=600)
    found, missing = scr(examples(x_ND, z_NF, {"a": text(has_N), "b": text(has_N, "ja", "nein")}, 0), atoms_FD)
    assert found == ()
    assert "has only 0 documents in a half, and it takes 10" in missing[0]


def test_one_label_makes_no_pair(two_concepts):
    documents, atoms_FD = two_concepts
    found, missing = scr(examples(documents.x_ND, documents.z_NF, {"a": documents.labels["a"]}, 0), atoms_FD)
    assert (found, len(missing)) == ((), 1)


def test_a_feature_that_speaks_against_the_cue_it_goes_with_is_removed_with_it():
    job_N, sex_N = (np.random.default_rng(seed).random(1600) < 0.5 for seed in (1, 2))
    planted = [(3, job_N, 1.0), (4, ~job_N, 1.0), (7, sex_N, 4.0), (8, ~sex_N, 2.0), (9, sex_N, 1.0)]
    x_ND, z_NF, atoms_FD = world(planted, n=1600, error=0.15)
    against_FD = atoms_FD.clone()
    against_FD[9] = -2 * atoms_FD[7]
    x_ND += z_NF[:, 9:10] * (against_FD[9] - atoms_FD[9])
    found, _ = scr(examples(x_ND, z_NF, {"job": text(job_N), "sex": text(sex_N)}, 0), against_FD)
    assert found[0].mended[2].score < 0.5
    assert found[0].mended[5].score > 0.9


def test_pairs_of_labels_beyond_the_cap_are_said_to_be_left_out(spurious_pair):
    documents, atoms_FD = spurious_pair
    labels = {f"{n}": np.random.default_rng(n).permutation(documents.labels["job"]) for n in range(4)}
    _, missing = scr(examples(documents.x_ND, documents.z_NF, labels, 0), atoms_FD)
    assert "6 of the 12 ordered pairs" in missing[0]
