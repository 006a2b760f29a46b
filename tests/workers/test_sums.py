"""Tensors are followed as sums exactly as far as they are sums."""

import torch

from workers.sums import Sums


def _followed():
    sums = Sums()
    x, y = torch.ones(2, 3), torch.ones(2, 3)
    return sums, x, y, sums.renew(x), sums.renew(y)


def test_additions_and_multiples_add_up():
    sums, x, y, a, b = _followed()
    with sums:
        z = (x + 0.5 * y).view(3, 2).view(2, 3) - torch.sub(y, x, alpha=2)
    assert sums.of(z) == {a: 3.0, b: -0.5}


def test_what_cancels_is_gone():
    sums, x, y, a, _ = _followed()
    with sums:
        z = (x + y) - y
    assert sums.of(z) == {a: 1.0}


def test_casts_and_copies_are_the_same():
    sums, x, _, a, _ = _followed()
    with sums:
        z = x.to(torch.float64).clone().unsqueeze(0).squeeze(0) / 4
    assert sums.of(z) == {a: 0.25}


def test_adding_in_place_changes_the_tensor_and_not_the_other():
    sums, x, y, a, b = _followed()
    with sums:
        x += y
    assert (sums.of(x), sums.of(y)) == ({a: 1.0, b: 1.0}, {b: 1.0})


def test_anything_else_is_new():
    sums, x, y, a, b = _followed()
    with sums:
        others = [x * y, x.relu(), x @ y.T, x + y[:1], x + 1.0, x[:1], x.T]
    atoms = [sums.of(other) for other in others]
    assert all(len(total) == 1 and not {a, b} & set(total) for total in atoms)
    assert len({atom for total in atoms for atom in total}) == len(others)


def test_writing_to_a_part_makes_the_whole_new():
    sums, x, y, a, _ = _followed()
    with sums:
        x[1:] += y[1:]
    assert a not in sums.of(x)


def test_writing_to_the_whole_makes_its_views_new():
    sums, x, y, a, _ = _followed()
    with sums:
        view = x.view(3, 2)
        x.mul_(y)
    assert a not in sums.of(view)
