"""What each variant promises: thresholds kept, prefixes, annealing, pursuits, transcoders and crosscoders (T24)."""

import numpy as np
import pytest
import torch

from jobs import sae
from jobs.sae.coder import Coder
from jobs.sae.losses import rebuilds, total
from jobs.sae.parts import Batch, Forward, Hears, State
from jobs.sae.pursuit import MatchingPursuit, OrthogonalPursuit
from jobs.sae.start import start
from jobs.sae.train import Training, train
from storage.moments import measure
from tests.jobs.sae.planting import TOPK, both, config, fit, order, planted, randn, unit, untrained

NONE_DEAD = torch.zeros(64, dtype=torch.bool)


@pytest.fixture(scope="module")
def material():
    return planted()


def l0(codes, n):
    return len(codes.active()[0]) / n


def test_topk_keeps_exactly_k_where_so_many_are_positive(material):
    rows, _ = material
    coder = untrained(rows, config())
    coder.b_enc_F.data += 10
    assert l0(coder.encode(rows[:500]), 500) == 4


def test_batch_topk_keeps_k_on_average_in_training_and_after_a_reload(material):
    rows, _ = material
    chosen = config(activation=sae.BatchTopK(k=3), batch=512, epochs=6)
    coder, history = fit(rows, chosen)
    assert all(abs(point.l0 - 3) <= 0.03 for point in history)
    again = Coder(coder.arrays(), chosen.activation, chosen.dictionary)
    assert float(again.own_activation["threshold"]) == float(coder.own_activation["threshold"]) > 0
    assert l0(again.encode(rows[-2000:]), 2000) == pytest.approx(3, rel=0.1)
    alone = again.encode(rows[-1:]).active()[0]
    assert torch.equal(alone, again.encode(rows[-2:]).active()[0][-len(alone) :] - 1)  # a row has codes of its own


def test_every_prefix_is_a_coder_of_its_own_and_longer_ones_rebuild_more():
    rows, _ = planted(width=24, d=16)
    chosen = config(width=32, activation=sae.BatchTopK(k=3), prefixes=(4, 12), batch=512, epochs=8)
    coder, _ = fit(rows, chosen)
    held = rows[-2000:]
    with torch.no_grad():
        codes, wanted = coder.encode(held), coder.wanted(held, held)
    errors = [float((wanted - rebuilt).square().mean()) for rebuilt in rebuilds(codes, coder.atoms_FD, (4, 12))]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 1.2 * errors[-1]
    for size, rebuilt in zip((4, 12, 32), rebuilds(codes, coder.atoms_FD, (4, 12)), strict=True):
        truncated = codes.mix(torch.eye(32))[:, :size] @ coder.atoms_FD[:size]
        torch.testing.assert_close(rebuilt, truncated, atol=1e-5, rtol=1e-5)
    coder.train()
    loss = total(coder, held, held, NONE_DEAD[:32], chosen.aux, chosen.prefixes)[0]
    first, codes = Hears(coder.hears(held).x_BD, coder.W_enc_FD, coder.b_enc_F), None
    codes = chosen.activation.encode(first, coder.own_activation, True)
    parts = [(wanted - rebuilt).square().mean() for rebuilt in rebuilds(codes, coder.atoms(), (4, 12))]
    torch.testing.assert_close(loss, torch.stack(parts).mean())


def test_where_p_changes_the_penalty_does_not_and_p_reaches_its_end():
    anneal = sae.PAnneal(l1=0.3, p_end=0.5, after=0.2, changes=5)
    assert [anneal.p(at) for at in (0, 0.2, 0.999)] == [1, 1, 0.5]
    own = State(anneal.start(20))
    x = randn(400, 6)
    hears = Hears(x, randn(20, 6, seed=1), torch.zeros(20))
    codes = anneal.encode(hears, own, True)
    at = [
        float(anneal.penalty(Forward(hears, codes, x, randn(20, 6, seed=2), (6,), progress), own))
        for progress in np.linspace(0, 1, 60)
    ]
    assert float(own["p"]) == 0.5
    np.testing.assert_allclose(at, at[0], rtol=0.01)
    assert float(own["factor"]) != 1


def test_matching_pursuit_takes_off_what_it_finds_step_by_step():
    atoms = unit(torch.tensor([[1.0, 0, 0], [0.8, 0.6, 0], [0, 0, 1]]))
    codes = MatchingPursuit(k=2).encode(
        Hears(torch.tensor([[2.0, 0.5, 0.1]]), atoms, torch.zeros(3)), State(sae.TopK().start(3)), True
    )
    # 2.0 along the first; what is left, (0, .5, .1), is .3 along the second
    torch.testing.assert_close(codes.mix(torch.eye(3)), torch.tensor([[2.0, 0.3, 0]]))


def test_orthogonal_pursuit_fits_all_that_it_chose_and_none_is_negative():
    rows, atoms = planted(500, width=20, d=16, offset=0)
    codes = OrthogonalPursuit(k=6).encode(Hears(rows, atoms, torch.zeros(20)), State(sae.TopK().start(20)), True)
    values = codes.values_A.reshape(500, 6)
    assert float(values.min()) >= 0
    left = rows - codes.mix(atoms)
    along = torch.einsum("bkd,bd->bk", atoms[codes.features_A.reshape(500, 6)], left)
    assert float(along[values > 0].abs().max()) < 1e-4
    greedy = MatchingPursuit(k=6).encode(Hears(rows, atoms, torch.zeros(20)), State(sae.TopK().start(20)), True)
    assert float(left.square().sum()) < float((rows - greedy.mix(atoms)).square().sum())


@pytest.mark.parametrize("kind", [MatchingPursuit, OrthogonalPursuit])
def test_pursuits_divide_by_the_length_of_long_atoms(kind):
    rows, atoms = planted(50, width=20, d=16, offset=0)
    lengths = torch.linspace(0.5, 3, 20)[:, None]
    own = State(sae.TopK().start(20))
    one, other = (kind(k=3).encode(Hears(rows, W, torch.zeros(20)), own, True).mix(W) for W in (atoms, atoms * lengths))
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("skip", [False, True])
def test_a_transcoder_predicts_another_row_than_it_reads(skip):
    atoms, out = (planted(10, width=30, d=d)[1] for d in (24, 10))
    strengths = (randn(12_000, 30, seed=3) - 1.2).relu() * 3
    rows = strengths @ atoms + 1
    targets = strengths @ out + (rows @ randn(24, 10, seed=5) * 0.3 if skip else 0) + 5
    chosen = config(
        width=60, activation=sae.TopK(k=8), target=sae.Source(site="resid.1"), skip=skip, batch=512, epochs=10
    )
    coder = start(chosen, [measure(rows.numpy())], [measure(targets.numpy())])
    assert not coder.rebuilds_its_input
    one = Training(coder, chosen, chosen.epochs * 10_000, Batch(rows[-2000:], targets[-2000:]))
    train(
        [one],
        (Batch(rows[part], targets[part]) for _ in range(chosen.epochs) for part in torch.arange(10_000).split(512)),
    )
    assert one.history[-1].held_out_fvu < 0.15
    again = Coder(coder.arrays(), chosen.activation, chosen.dictionary)
    x = rows[-50:]
    assert torch.equal(again.decode(again.encode(x), x), coder.decode(coder.encode(x), x))
    assert (again.W_skip_DE is not None) == skip


def test_a_crosscoder_of_one_source_is_a_coder_bit_for_bit(material):
    rows, _ = material
    rows = rows[:6000]
    chosen = config(activation=sae.Relu(l1=0.2), dictionary=sae.Free(), batch=512, epochs=1)
    one, other = untrained(rows, chosen), untrained(rows, chosen)
    other.blocks = (32,)
    for coder in (one, other):
        train([Training(coder, chosen, len(rows), both(rows[:100]))], order(rows, chosen))
    assert all(np.array_equal(one.arrays()[name], other.arrays()[name]) for name in one.arrays())


def test_a_crosscoder_pays_for_the_length_of_an_atom_in_every_source(material):
    rows, _ = material
    moments = [measure(rows[:, :20].numpy()), measure(rows[:, 20:].numpy())]
    chosen = config(activation=sae.Relu(l1=0.5), dictionary=sae.Free(), beside=(sae.Source(site="resid.1"),))
    coder = start(chosen, moments).train()
    assert coder.blocks == (20, 12)
    x = rows[:200]
    loss, codes, error = total(coder, x, x, NONE_DEAD, chosen.aux)
    lengths = coder.atoms()[:, :20].norm(dim=1) + coder.atoms()[:, 20:].norm(dim=1)
    torch.testing.assert_close(loss, error + 0.5 * (codes.z_BF @ lengths).mean() / 32**0.5)
    assert Coder(coder.arrays(), chosen.activation, chosen.dictionary).blocks == (20, 12)


@pytest.mark.parametrize("kind", ["isotropic", "centre", "standardise", "none"])
def test_normalisation_is_kept_and_undone(material, kind):
    rows = material[0] * torch.linspace(0.1, 4, 32) + 7
    coder = untrained(rows, config(normalise=kind, activation=TOPK))
    seen = coder.normalise(rows).double()
    if kind != "none":
        assert float(seen.var(0).mean()) == pytest.approx(1, rel=1e-3)
    if kind in ("centre", "standardise"):
        assert float(seen.mean(0).abs().max()) < 1e-3
    if kind == "standardise":
        torch.testing.assert_close(seen.var(0), torch.ones(32).double(), rtol=1e-3, atol=1e-3)
    nothing = coder.decode(coder.encode(rows[:1]).within(0, 0))
    centre = rows.mean(0) if kind != "none" else coder.b_dec_E.detach()
    torch.testing.assert_close(nothing[0].detach(), centre, rtol=1e-3, atol=1e-3)


def test_the_same_batches_train_several_coders_as_they_would_train_each(material):
    rows, _ = material
    rows = rows[:4000]
    chosen = [config(batch=512, epochs=1, seed=seed, activation=act) for seed, act in ((0, TOPK), (0, sae.Relu()))]
    apart = [untrained(rows, one) for one in chosen]
    for coder, one in zip(apart, chosen, strict=True):
        train([Training(coder, one, len(rows), both(rows[:100]))], order(rows, one))
    side = [Training(untrained(rows, one), one, len(rows), both(rows[:100])) for one in chosen]
    train(side, order(rows, chosen[0]))
    for coder, one in zip(apart, side, strict=True):
        assert all(
            np.array_equal(a, b) for a, b in zip(coder.arrays().values(), one.coder.arrays().values(), strict=True)
        )
