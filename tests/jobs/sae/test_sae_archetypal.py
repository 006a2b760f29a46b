"""Archetypal dictionaries: their constraints after the last step, in use and after a reload (T15)."""

import numpy as np
import pytest
import torch
from scipy.optimize import nnls

from jobs import sae
from jobs.sae.candidates import KMeans, Sampled
from jobs.sae.coder import Coder
from jobs.sae.parts import State
from storage import InputError
from storage.value import convert
from tests.jobs.sae.planting import TOPK, config, fit, planted, untrained

N = 120
EXACT = "donot_use_mm_for_euclid_dist"


def archetypal(**fields):
    return sae.Archetypal(**{"candidates": KMeans(n=N)} | fields)


@pytest.fixture(scope="module")
def rows():
    return planted(6000, offset=0.0)[0]


@pytest.fixture(
    scope="module",
    params=[{}, {"delta": 0.3}, {"start_from": "random"}, {"support": 10}, {"delta": 0.3, "support": 10}],
    ids=str,
)
def trained(request, rows):
    chosen = config(dictionary=archetypal(**request.param), normalise="standardise", batch=512, epochs=6, lr=2e-2)
    return chosen, fit(rows, chosen, held=500)[0]


def whole(own):
    """W [F, N] with the zeros that a support leaves out."""
    W, points = own["W"].detach().double(), own["points"]
    if "nearest" not in own:
        return W
    return torch.zeros(len(W), len(points), dtype=torch.float64).scatter(1, own["nearest"], W)


def test_weights_are_a_mixture_and_the_relaxation_is_bounded_after_the_last_step(trained):
    chosen, coder = trained
    for one in (coder, coder.train(), coder.eval(), Coder(coder.arrays(), chosen.activation, chosen.dictionary)):
        W = whole(one.own_dictionary)
        assert float(W.min()) >= 0
        assert float((W.sum(1) - 1).abs().max()) <= 1e-6
        assert ("relaxation" in one.own_dictionary) == bool(chosen.dictionary.delta)
        if chosen.dictionary.delta:
            lengths = one.own_dictionary["relaxation"].norm(dim=1)
            assert float(lengths.detach().max()) <= chosen.dictionary.delta * (1 + 1e-6)
            assert float(lengths.detach().max()) > 0
        assert bool(torch.isfinite(one.atoms_FD).all())


def test_atoms_lie_in_the_convex_hull_of_the_candidates(trained):
    chosen, coder = trained
    points = coder.own_dictionary["points"].double().numpy()
    scale = float(coder.own_dictionary["log_scale"].detach().exp())
    hull = np.vstack([points.T, 100 * np.ones(N)])  # the last line asks weights to sum to 1
    for atom in coder.atoms_FD.double().numpy()[:12] / scale:
        _, residual = nnls(hull, np.append(atom, 100.0))
        assert residual <= (chosen.dictionary.delta or 1e-5)


def test_a_support_leaves_every_other_candidate_out(rows):
    chosen = config(dictionary=archetypal(support=10), normalise="standardise")
    W = whole(untrained(rows, chosen).own_dictionary)
    assert torch.equal(W, torch.eye(64, N, dtype=torch.float64))
    full = untrained(rows, config(dictionary=archetypal(support=N, start_from="random"), normalise="standardise"))
    dense = untrained(rows, config(dictionary=archetypal(start_from="random"), normalise="standardise"))
    torch.testing.assert_close(full.own_dictionary["W"].sum(1), torch.ones(64))
    assert full.atoms_FD.shape == dense.atoms_FD.shape


def test_the_dictionary_in_use_follows_what_is_loaded(trained, rows):
    chosen, coder = trained
    other = untrained(rows, chosen, seed=5).eval()
    assert not torch.equal(other.atoms_FD, coder.atoms_FD)
    other.load_state_dict(coder.state_dict())
    assert torch.equal(other.atoms_FD, coder.atoms_FD)


@pytest.mark.parametrize("support", [None, 10])
def test_a_row_without_positive_weights_becomes_a_mixture_again(rows, support):
    dictionary = archetypal(support=support)
    own: State = untrained(rows, config(dictionary=dictionary)).own_dictionary
    with torch.no_grad():
        own["W"][3] = -1.0
        own["W"][3, 7] = -0.5
        own["W"][4] = 0.0
        dictionary.project_(own)
    assert own["W"][3].tolist() == [float(n == 7) for n in range(own["W"].shape[1])]
    W = own["W"].detach()
    assert float(W[4].sum()) == 1
    assert bool(torch.isfinite(W).all())


def test_candidates_lie_in_the_hull_of_the_rows_and_differ_by_seed(rows):
    batches = list(rows.split(512))
    one, again, other = (KMeans(n=50).draw(batches, seed) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    hull = np.vstack([rows.double().numpy().T, 100 * np.ones(len(rows))])
    for point in one.double().numpy()[:5]:
        assert nnls(hull, np.append(point, 100.0))[1] < 1e-3
    drawn = Sampled(n=40).draw(batches, 0)
    assert bool((torch.cdist(drawn, rows, compute_mode=EXACT).min(1).values < 1e-4).all())


def test_more_candidates_than_rows_are_refused(rows):
    with pytest.raises(InputError, match="7000 k-means candidates were asked of 6000"):
        KMeans(n=7000).draw(rows.split(512), 0)
    with pytest.raises(InputError, match="7000 rows were asked"):
        Sampled(n=7000).draw(rows.split(512), 0)


def test_what_cannot_be_is_refused_before_anything_is_read():
    base = {"cache": "c", "site": "resid.0", "width": 64}
    for wrong, said in [
        ({"dictionary": {"kind": "archetypal", "delta": -0.1}}, "delta"),
        ({"dictionary": {"kind": "archetypal", "candidates": {"kind": "kmeans", "n": 50}}}, "width is 64 .*n is 50"),
        ({"dictionary": {"kind": "unit_norm", "candidates": {"kind": "rows", "n": 50}}}, "width is 64 .*n is 50"),
        ({"dictionary": {"kind": "archetypal", "support": 5000}}, "support is 5000 of 4096"),
        (
            {"width": 70_000, "dictionary": {"kind": "archetypal", "candidates": {"n": 80_000, "kind": "rows"}}},
            "support",
        ),
        ({"activation": {"kind": "matching_pursuit"}}, "tied"),
        ({"prefixes": [32, 16]}, "prefixes"),
        ({"prefixes": [64]}, "prefixes"),
        ({"skip": True}, "target"),
        ({"target": {"site": "resid.1"}, "beside": [{"site": "resid.1"}]}, "crosscoder"),
        ({"target": {"site": "resid.1"}, "encoder": "tied"}, "tied"),
    ]:
        with pytest.raises(InputError, match=said):
            convert(base | wrong, sae.Config, "jobs.x")
    assert convert(base | {"activation": {"kind": "topk", "k": 4}}, sae.Config, "x").activation == TOPK
