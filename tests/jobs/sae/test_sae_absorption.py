"""Absorption on planted parents and children, the rules on rows made by hand, and words with their first letters."""

import re

import numpy as np
import pytest
import torch
from scipy.sparse import csc_array, csr_array

import tests.conftest
from jobs.sae.absorption import Rows, absorption, gathered, judge, main_features, metrics, notes
from jobs.sae.codes import Dense, Sparse
from jobs.sae.spelling import LETTERS, Words, find_words, first_letters
from storage.tokens import Span
from tests.conftest import Doc

PARENTS, CHILDREN, D, N = 4, 30, 128, 4000
FIRST_CHILD, FIRST_OTHER = PARENTS, PARENTS + CHILDREN


def planted(seed=0, noise=0.02):
    """Rows of 4 parents (or none); 30% of those of the first have one of 30 children too: (x, codes, atoms, ...)."""
    rng = np.random.default_rng(seed)
    atoms_FD = np.linalg.qr(rng.standard_normal((D, D)))[0][: FIRST_OTHER + 90]
    z_NF = (rng.random((N, len(atoms_FD))) < 0.02) * rng.uniform(0.5, 1.5, (N, len(atoms_FD)))
    z_NF[:, :FIRST_OTHER] = 0
    concept_N = rng.integers(-1, PARENTS, N)
    child_N = np.where((concept_N == 0) & (rng.random(N) < 0.3), rng.integers(0, CHILDREN, N), -1)
    z_NF[concept_N >= 0, concept_N[concept_N >= 0]] = 1
    z_NF[child_N >= 0, FIRST_CHILD + child_N[child_N >= 0]] = 1
    x_ND = z_NF @ atoms_FD + noise * rng.standard_normal((N, D))
    return x_ND.astype(np.float32), z_NF.astype(np.float32), atoms_FD.astype(np.float32), concept_N, child_N


def absorbing(z_NF, atoms_FD, child_N, length=0.05):
    """The same rows told by a dictionary whose children have swallowed their parent; its atoms are not unit ones."""
    z_NF, atoms_FD = z_NF.copy(), atoms_FD.copy()
    z_NF[child_N >= 0, 0] = 0
    atoms_FD[FIRST_CHILD:FIRST_OTHER] += atoms_FD[0]
    return z_NF / length, atoms_FD * length


def measured(x_ND, z_NF, atoms_FD, concept_N):
    rows = Rows(torch.from_numpy(x_ND), csr_array(z_NF), concept_N, np.arange(len(x_ND)) % 2 == 0)
    return absorption(rows, torch.from_numpy(atoms_FD), 0)


@pytest.fixture(scope="module")
def world():
    x_ND, z_NF, atoms_FD, concept_N, child_N = planted()
    swallowed = measured(x_ND, *absorbing(z_NF, atoms_FD, child_N), concept_N)
    return measured(x_ND, z_NF, atoms_FD, concept_N), swallowed, child_N


def test_every_row_of_a_child_that_swallowed_its_parent_is_absorbed(world):
    _, swallowed, child_N = world
    parent = swallowed[0]
    has_child_P = child_N[parent.rows_P] >= 0
    assert 0.2 < has_child_P.mean() < 0.4
    assert parent.full_P[has_child_P].mean() == 1.0
    assert parent.fraction_P[has_child_P].mean() == 1.0
    np.testing.assert_array_equal(parent.absorber_P[has_child_P], FIRST_CHILD + child_N[parent.rows_P[has_child_P]])


def test_no_other_row_is_absorbed(world):
    _, swallowed, child_N = world
    assert not swallowed[0].full_P[child_N[swallowed[0].rows_P] < 0].any()
    assert [one.full_P.sum() for one in swallowed[1:]] == [0, 0, 0]


def test_the_true_dictionary_absorbs_nothing(world):
    true, _, _ = world
    assert [one.concept for one in true] == [0, 1, 2, 3]
    assert all(one.f1 > 0.98 and one.full_P.sum() == 0 and one.fraction_P.sum() == 0 for one in true)
    assert [one.main_K.tolist() for one in true] == [[0], [1], [2], [3]]


def test_atoms_dealt_out_anew_absorb_as_often_as_a_feature_that_fires_draws_one_of_a_child(world):
    true, swallowed, child_N = world
    _, z_NF, *_ = planted()
    chance = CHILDREN / (CHILDREN + PARENTS - 1 + 90)
    rows = swallowed[0].rows_P[child_N[swallowed[0].rows_P] >= 0]
    fires_P = (z_NF[rows] != 0).sum(axis=1) - 1  # the parent does not, for it is swallowed
    expected = (1 - (1 - chance) ** fires_P).mean()
    assert swallowed[0].full_null / swallowed[0].full_P.mean() == pytest.approx(expected, abs=0.1)
    assert all(one.full_null == one.fraction_null == 0 for one in true)


def test_metrics_are_means_over_the_concepts(world):
    _, swallowed, child_N = world
    full, fraction, main = metrics(swallowed, "planted")
    assert (full.name, fraction.name) == ("absorption.planted.full", "absorption.planted.fraction")
    assert full.value == pytest.approx((child_N[swallowed[0].rows_P] >= 0).mean() / 4)
    assert full.null < full.value
    assert main.value == 1
    assert "1B parameters" in notes(swallowed, "abcd")[0]


def test_a_concept_split_between_two_features_has_both_as_main_ones():
    rng = np.random.default_rng(0)
    has_N = rng.random(2000) < 0.3
    first_N = rng.random(2000) < 0.6
    z_NF = np.zeros((2000, 6))
    z_NF[:, 2], z_NF[:, 4] = has_N & first_N, has_N & ~first_N
    z_NF[:, 5] = rng.random(2000)
    assert main_features(csc_array(z_NF), has_N, np.arange(2000), 0).tolist() == [2, 4]


def test_a_concept_that_is_not_in_the_hidden_states_is_not_measured():
    x_ND, z_NF, atoms_FD, concept_N, _ = planted()
    assert measured(x_ND, z_NF, atoms_FD, np.random.default_rng(1).permutation(concept_N)) == ()
    assert metrics((), "planted") == ()
    assert notes((), "abcd")[0].startswith("No absorption:")


def test_a_concept_that_a_probe_hardly_finds_is_not_measured_either():
    x_ND, z_NF, atoms_FD, concept_N, _ = planted(noise=0.5)
    rows = measured(x_ND, z_NF, atoms_FD, concept_N)
    assert len(rows) > 0
    assert all(0.6 < one.f1 < 0.95 for one in rows)
    assert all((concept_N[one.rows_P] == one.concept).all() for one in rows)
    x_ND, z_NF, atoms_FD, concept_N, _ = planted(noise=0.9)
    assert measured(x_ND, z_NF, atoms_FD, concept_N) == ()


@pytest.mark.parametrize("scale", [0.01, 100])
def test_rows_of_another_scale_are_absorbed_as_much(world, scale):
    x_ND, z_NF, atoms_FD, concept_N, child_N = planted()
    z_NF, atoms_FD = absorbing(z_NF, atoms_FD, child_N)
    for one, same in zip(measured(scale * x_ND, z_NF, scale * atoms_FD, concept_N), world[1], strict=True):
        np.testing.assert_array_equal(one.full_P, same.full_P)
        np.testing.assert_allclose(one.fraction_P, same.fraction_P, atol=1e-3)


def test_the_rules_row_by_row():
    # features: 0 main; 1, 2, 3, 4 aligned well; 5 barely; 6 not, but with a long atom
    cosine_F = np.array([0.9, 0.5, 0.5, 0.5, 0.5, 0.05, 0.02])
    along_F = np.where(np.arange(7) == 6, 1.0, cosine_F)
    cases = [  # codes, projection, full absorption, absorption fraction
        ([0, 1.0, 0, 0, 0, 0, 0], 1, True, 1),  # one other carries .5 of 1
        ([0, 0.7, 0, 0, 0, 0, 0], 1, False, 0),  # .35 of it: too little
        ([1, 1.0, 0, 0, 0, 0, 0], 1.2, False, 0.3 / 1.2),  # the main one carries .9, so .3 is left to be taken
        ([1, 1.0, 0, 0, 0, 0, 0], 2, False, 0),  # another carries only a quarter
        ([0, 0.3, 0.3, 0.3, 0.3, 0, 0], 1, False, 1),  # four that carry .15 each: three of them make .45
        ([0, 0.25, 0.25, 0.25, 0.25, 0, 0], 1, False, 0),  # three make .375, though four would make .5
        ([0, 0, 0, 0, 0, 10, 0], 1, True, 0),  # aligned enough for full absorption, not for the fraction
        ([0, 1.0, 0, 0, 0, 0, 0], -0.1, False, 0),  # nothing to carry
        ([1, 0.9, 0, 0, 0, 0, 0], 0.9, False, 0),  # the main one carries all
        ([0, 0, 0, 0, 0, 0, 9], 1, False, 0),  # loud and not aligned
        ([0, 0, 0, 0, 0, 0, 0], 1, False, 0),  # silent throughout
    ]
    z_PF, projection_P, full_P, fraction_P = (np.array(column) for column in zip(*cases, strict=True))
    found = judge(projection_P, csr_array(z_PF), along_F, cosine_F, np.array([0]))
    assert found.full_P.tolist() == full_P.tolist()
    assert found.fraction_P == pytest.approx(fraction_P)
    assert found.absorber_P.tolist() == [1, 1, 0, 0, 1, 1, 5, 1, 0, 6, -1]


def test_codes_of_batches_lie_below_one_another():
    z_NF = torch.tensor([[0.0, 2.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 3.0]])
    sparse = Sparse.even(torch.tensor([[1.0, 3.0]]), torch.tensor([[0, 2]]))
    x_ND, found = gathered([(torch.zeros(2, 4), Dense(z_NF[:2])), (torch.ones(1, 4), sparse)], 3)
    np.testing.assert_array_equal(found.toarray(), z_NF)
    assert x_ND[:, 0].tolist() == [0, 0, 1]


def pieces(documents):
    """Tokens of at most four letters with the space before them, or one other character."""
    spans = []
    for number, doc in enumerate(documents):
        found = [match.span() for match in re.finditer(r" ?[A-Za-z]{1,4}|.", doc.text)]
        begins, ends = (np.array(edge, np.int32) for edge in zip(*found, strict=True))
        ids = np.arange(len(found), dtype=np.int32)
        spans.append(Span(number, number, f"doc:{number}", ids, begins, ends, doc.text, 0, doc.labels, None))
    return spans


def test_words_are_whole_different_and_not_first_in_their_sequence(make_cache, monkeypatch):
    monkeypatch.setattr(tests.conftest, "spans_of", pieces)
    texts = ["One cat, Cat sat alphabetically: dog7 a", "if 7cow then (yes) no"]
    n_rows = sum(len(span.input_ids) for span in pieces([Doc(text) for text in texts]))
    cache = make_cache({"resid.0": np.zeros((n_rows, 2), np.float32)}, [Doc(text) for text in texts])
    words = find_words(cache.tokens, np.arange(n_rows), 0)
    assert sorted(words.words) == ["cat", "no", "sat", "then", "yes"]
    strings = [string.strip().lower() for string in cache.tokens.strings(words.rows_N)]
    assert tuple(strings) == words.words
    assert [LETTERS[letter] for letter in words.letters_N] == [word[0] for word in words.words]
    assert (np.diff(words.rows_N) > 0).all()
    held = words.rows_N[words.rows_N < 10]
    assert set(find_words(cache.tokens, held, 0).rows_N) <= set(held)


def test_first_letters_are_measured_about_what_the_decoder_adds_anyway():
    x_ND, z_NF, atoms_FD, concept_N, child_N = planted()
    some_N = np.flatnonzero(concept_N >= 0)
    words = Words(some_N, tuple(LETTERS[concept] + "word" for concept in concept_N[some_N]))
    offset_D = 50 * torch.randn(D, generator=torch.Generator().manual_seed(0))
    z_NF, atoms_FD = (torch.from_numpy(one) for one in absorbing(z_NF, atoms_FD, child_N))
    x_ND = torch.from_numpy(x_ND) + offset_D
    batches = ((x_ND[part], Dense(z_NF[part])) for part in np.array_split(some_N, 3))
    found = first_letters(words, batches, atoms_FD, offset_D, 0)
    assert [one.concept for one in found] == [0, 1, 2, 3]
    np.testing.assert_array_equal(found[0].full_P, child_N[some_N[found[0].rows_P]] >= 0)
    assert notes(found, LETTERS)[0].startswith(f"Absorption is measured on {sum(len(f.rows_P) for f in found)} rows")
