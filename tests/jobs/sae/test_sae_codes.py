"""Sparse codes: their products, their gradients, and which features are chosen."""

import pytest
import torch

from jobs.sae import codes, picking
from jobs.sae.codes import Dense, Sparse
from jobs.sae.picking import largest, pick, pick_above, pick_of_batch
from tests.jobs.sae.planting import randn


@pytest.mark.parametrize("gathers", [True, False])
def test_sparse_codes_give_the_values_and_gradients_of_the_dense_formula(gathers, monkeypatch):
    for module in (codes, picking):
        monkeypatch.setattr(module, "gathers", lambda like: gathers)  # False is the way of a GPU
    leaves = [randn(*shape, seed=n).double() for n, shape in enumerate([(50, 12), (30, 12), (30,), (30, 12)])]
    target = randn(50, 12, seed=4).double()

    def gradients(rebuild):
        x, W, b, V = (leaf.clone().requires_grad_() for leaf in leaves)
        loss = (rebuild(x, W, b, V) - target).square().sum()
        return [loss, *torch.autograd.grad(loss, [x, W, b, V])]

    def sparse(x, W, b, V):
        return pick(x, W, b, 5).positive().mix(V)

    def dense(x, W, b, V):
        scores = x @ W.T + b
        values, features = scores.topk(5)
        return torch.zeros_like(scores).scatter(1, features, values.relu()) @ V

    for found, wanted in zip(gradients(sparse), gradients(dense), strict=True):
        torch.testing.assert_close(found, wanted)


def test_of_equal_scores_the_lower_index_is_kept_and_never_more_than_k():
    scores = torch.tensor([[1.0, 3, 3, 3, 0], [0, 0, 0, 0, 0], [5, 4, 3, 2, 1]])
    assert largest(scores, 2).tolist() == [[1, 2], [0, 1], [0, 1]]
    assert largest(scores, 5).tolist() == [[0, 1, 2, 3, 4]] * 3


@pytest.mark.parametrize("k", [1, 7, 32])
def test_the_largest_are_those_of_a_full_sort(k):
    scores = randn(64, 32)
    wanted = scores.argsort(dim=1, descending=True)[:, :k].sort(dim=1).values
    assert torch.equal(largest(scores, k), wanted)


def test_active_entries_and_fired_features_are_the_non_zero_ones():
    z = torch.tensor([[0.0, 2, 0, 1], [0, 0, 0, 3]])
    sparse = Sparse.even(torch.tensor([[2.0, 1], [0, 3]]), torch.tensor([[1, 3], [0, 3]]))
    for kind in (Dense(z), sparse):
        assert [part.tolist() for part in kind.active()] == [[0, 0, 1], [1, 3, 3], [2, 1, 3]]
        assert kind.fired(4).tolist() == [False, True, False, True]


@pytest.mark.parametrize("gathers", [True, False])
def test_the_strongest_of_a_batch_are_those_of_a_full_sort_with_their_gradients(gathers, monkeypatch):
    for module in (codes, picking):
        monkeypatch.setattr(module, "gathers", lambda like: gathers)
    x, W, b, V = (
        randn(*shape, seed=n).double().requires_grad_() for n, shape in enumerate([(40, 6), (25, 6), (25,), (25, 6)])
    )
    scores = x @ W.T + b
    least = scores.flatten().sort(descending=True).values[3 * 40 - 1]
    wanted = torch.where((scores >= least) & (scores > 0), scores, 0.0) @ V
    found = pick_of_batch(x, W, b, 3).mix(V)
    torch.testing.assert_close(found, wanted)
    for one, other in zip(*(torch.autograd.grad(z.square().sum(), [x, W, b, V]) for z in (found, wanted)), strict=True):
        torch.testing.assert_close(one, other)


def test_a_batch_keeps_no_more_than_its_share_and_nothing_negative():
    x = torch.eye(3)
    assert pick_of_batch(x, torch.ones(4, 3), torch.zeros(4), 2).features_A.tolist() == [0, 1, 2, 3, 0, 1]
    assert len(pick_of_batch(x, -torch.ones(4, 3), torch.zeros(4), 2).features_A) == 0


def test_codes_within_a_range_are_the_others_set_to_zero():
    z = torch.tensor([[1.0, 2, 0, 3], [4, 0, 5, 6]])
    sparse = Sparse(torch.tensor([1.0, 2, 3, 4, 5, 6]), torch.tensor([0, 1, 3, 0, 2, 3]), torch.tensor([0, 3, 6]))
    for kind in (Dense(z), sparse):
        torch.testing.assert_close(kind.within(1, 3).mix(torch.eye(4)), torch.tensor([[0.0, 2, 0, 0], [0, 0, 5, 0]]))


@pytest.mark.parametrize("share", [0, 1])
def test_what_is_above_a_threshold_has_the_values_and_gradients_of_the_dense_formula(share, monkeypatch):
    monkeypatch.setattr(picking, "_FEW", share)
    leaves = [randn(*shape, seed=n).double() for n, shape in enumerate([(40, 6), (25, 6), (25,), (25, 6)])]
    x, W, b, V = (leaf.requires_grad_() for leaf in leaves)
    scores = x @ W.T + b
    for least, wanted in ((-1.0, scores.relu()), (0.7, scores * (scores > 0.7))):
        found = pick_above(x, W, b, least)
        assert isinstance(found, Sparse if share else Dense)
        losses = [
            (z @ V).square().sum() if isinstance(z, torch.Tensor) else z.mix(V).square().sum() for z in (found, wanted)
        ]
        for one, other in zip(
            *(torch.autograd.grad(loss, [x, W, b, V], retain_graph=True) for loss in losses), strict=True
        ):
            torch.testing.assert_close(one, other)
