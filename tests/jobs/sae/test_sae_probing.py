"""Sparse probing of documents: a planted feature is found, shuffled labels say nothing, wide probes are exact."""

import numpy as np
import pytest
import torch

from jobs.sae import pooled
from jobs.sae.binary import accuracy, balanced, fit_planes, fit_small
from jobs.sae.codes import Dense
from jobs.sae.features import DocumentMeans
from jobs.sae.pooled import StateMeans, examples, left_out
from jobs.sae.pooled import pooled as pooled_documents
from jobs.sae.probing import metrics, notes, sparse_probing
from tests.conftest import Doc


def planted(n=2000, width=256, d=24, seed=0, values=("no", "yes")):
    """Documents of which feature v is loud just where the label has the v-th value."""
    rng = np.random.default_rng(seed)
    which_N = rng.integers(len(values), size=n)
    z_NF = rng.random((n, width)) * (rng.random((n, width)) < 0.3)
    z_NF[np.arange(n), which_N] += 1.5
    atoms_FD = rng.standard_normal((width, d)) / np.sqrt(d)
    x_ND = z_NF @ atoms_FD + 3
    return (*(torch.from_numpy(one.astype(np.float32)) for one in (x_ND, z_NF)), np.array(values, object)[which_N])


@pytest.fixture(scope="module")
def probed():
    x_ND, z_NF, label_N = planted()
    (found,) = sparse_probing(examples(x_ND, z_NF, {"kind": label_N}, 0))
    return found


def test_one_planted_feature_tells_its_label(probed):
    assert probed.sparse[1].accuracy >= 0.98
    assert probed.sparse[5].accuracy >= 0.98
    assert probed.codes.accuracy >= 0.98


def test_shuffled_labels_are_at_chance_whatever_the_probe(probed):
    for score in (*probed.sparse.values(), *probed.sparse_states.values(), probed.codes, probed.states):
        assert score.null == pytest.approx(0.5, abs=0.03)


def test_a_few_dimensions_say_less_than_the_whole_hidden_state(probed):
    assert probed.sparse_states[1].accuracy < probed.sparse_states[5].accuracy < probed.states.accuracy < 1


@pytest.mark.parametrize("silent", [0, 1])
def test_a_feature_that_only_fires_without_the_value_tells_as_much(silent):
    x_ND, z_NF, label_N = planted()
    z_NF[:, silent] = 0
    (found,) = sparse_probing(examples(x_ND, z_NF, {"kind": label_N}, 0))
    assert found.sparse[1].accuracy >= 0.98


def test_features_that_know_nothing_are_at_chance():
    x_ND, z_NF, label_N = planted()
    (found,) = sparse_probing(examples(x_ND, z_NF[:, 2:], {"kind": label_N}, 0))
    assert all(score.accuracy == pytest.approx(0.5, abs=0.05) for score in (*found.sparse.values(), found.codes))
    assert found.states.accuracy > 0.7


def test_dead_features_say_no_to_everything_and_are_right_half_of_the_time():
    x_ND, z_NF, label_N = planted(n=300)
    (found,) = sparse_probing(examples(x_ND, torch.zeros_like(z_NF), {"kind": label_N}, 0))
    assert {score.accuracy for score in (*found.sparse.values(), found.codes)} == {0.5}


def test_every_common_value_is_asked_about_and_half_of_its_documents_have_it():
    x_ND, z_NF, label_N = planted(values=tuple("abcd"))
    documents = examples(x_ND, z_NF, {"letter": label_N, "number": np.arange(len(label_N))}, 0)
    (found,) = sparse_probing(documents)
    assert sorted(found.values) == list("abcd")
    assert found.sparse[1].accuracy >= 0.98
    assert left_out(documents, ("letter", "number"))[0].startswith("No sparse probing, TPP or SCR for number:")
    assert left_out(documents, ("letter",)) == ()
    names = [metric.name for metric in metrics([found])]
    assert names[:3] == [f"sparse_probing.letter.k{k}" for k in (1, 2, 5)]
    assert names[-2:] == ["sparse_probing.letter.codes", "sparse_probing.letter.states"]
    assert len(notes([found])) == 1
    assert notes([]) == ()


def test_documents_beyond_the_cap_are_a_sample_that_the_seed_decides(monkeypatch):
    monkeypatch.setattr(pooled, "MOST_DOCUMENTS", 100)
    x_ND, z_NF, label_N = planted(n=1000)
    one, again, other = (examples(x_ND, z_NF, {"kind": label_N}, seed) for seed in (0, 0, 1))
    assert len(one.x_ND) == 100
    assert torch.equal(one.z_NF, again.z_NF)
    assert not torch.equal(one.z_NF, other.z_NF)
    train, test = one.halves
    assert sorted([*train, *test]) == list(range(100))


def test_balanced_draws_have_as_many_with_as_without():
    has_N = np.arange(100) < 10
    drawn = balanced(has_N, np.arange(5, 100), 100, np.random.default_rng(0))
    assert len(drawn) == len(set(drawn)) == 10
    assert has_N[drawn].sum() == 5
    assert drawn.min() >= 5


def test_inputs_that_span_no_more_than_a_few_dimensions_give_the_probe_of_these_dimensions():
    random = torch.Generator().manual_seed(0)
    x_ND = torch.randn(300, 20, generator=random) + 2
    has_PN = (x_ND[:, 0] + x_ND[:, 1] + torch.randn(300, generator=random) > 4)[None]
    turn_DW = torch.linalg.qr(torch.randn(600, 20, generator=random)).Q.T
    (narrow,), (wide,) = fit_planes(x_ND, has_PN, 0), fit_planes(x_ND @ turn_DW, has_PN, 0)
    torch.testing.assert_close(wide.scores(x_ND @ turn_DW), narrow.scores(x_ND), rtol=0, atol=0.02)
    assert narrow.scores(x_ND).std() > 1


def test_a_probe_of_a_few_inputs_cuts_where_two_bells_of_equal_width_are_equally_likely():
    random = torch.Generator().manual_seed(0)
    has_N = torch.arange(20_000) % 2 == 0
    x_ND = torch.randn(20_000, 2, generator=random) + torch.outer(has_N.float(), torch.tensor([1.0, 0.5]))
    plane = fit_small(x_ND, has_N)
    torch.testing.assert_close(plane.w_D, torch.tensor([1.0, 0.5]), rtol=0, atol=0.06)  # the difference of the means
    assert plane.b == pytest.approx(-0.625, abs=0.06)  # minus half of its squared length


def test_a_wide_probe_with_its_penalty_chosen_generalises():
    rng = np.random.default_rng(0)
    x_ND = torch.from_numpy(rng.standard_normal((900, 1000)).astype(np.float32))
    has_N = x_ND[:, :3].sum(1) > 0
    x_ND[:, :3] *= 4
    (plane,) = fit_planes(x_ND[:500], has_N[None, :500], 0)
    assert accuracy(plane.scores(x_ND[500:]), has_N[500:]) > 0.9


def test_states_are_pooled_over_the_documents_that_codes_are():
    rng = np.random.default_rng(0)
    x_ND, documents_N = torch.from_numpy(rng.standard_normal((60, 4)).astype(np.float32)), np.sort(np.arange(60) % 7)
    codes = DocumentMeans(np.array([1, 4, 6]), 7, 4)
    states = StateMeans(codes.documents_N, 7, 4)
    for part in (slice(0, 25), slice(25, 60)):
        codes.add(documents_N[part], Dense(x_ND[part]))
        states.add(documents_N[part], x_ND[part])
    slow = torch.stack([x_ND[torch.from_numpy(documents_N == document)].mean(0) for document in (1, 4, 6)])
    torch.testing.assert_close(states.means, slow)
    torch.testing.assert_close(torch.from_numpy(codes.means), slow)


def test_the_labels_of_a_cache_reach_its_pooled_documents(make_cache):
    documents = [Doc("one two", {"kind": "odd" if n % 2 else "even", "n": n}) for n in range(60)]
    x_ND = np.repeat(np.arange(60, dtype=np.float32), 2)[:, None] * np.ones((1, 3), np.float32)
    tokens = make_cache({"resid.0": x_ND}, documents).tokens
    numbers_N = tokens.documents(np.arange(120))
    codes = DocumentMeans(np.arange(60), 60, 3)
    states = StateMeans(codes.documents_N, 60, 3)
    codes.add(numbers_N, Dense(torch.from_numpy(x_ND)))
    states.add(numbers_N, torch.from_numpy(x_ND))
    found = pooled_documents(states, codes, tokens, 0)
    assert list(found.labels) == ["kind"]
    assert found.x_ND[:, 0].tolist() == list(range(60))
    (odd,) = found.concepts("kind")
    assert odd.opposed
    assert odd.has_N.tolist() == [(n % 2 == 1) == (odd.value == "odd") for n in range(60)]
