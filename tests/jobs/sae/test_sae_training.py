"""The training loop, its losses and constraints."""

import numpy as np
import pytest
import torch

from jobs import sae
from jobs.sae import codes, picking
from jobs.sae.candidates import KMeans
from jobs.sae.dictionaries import random_atoms
from jobs.sae.losses import auxiliary, total
from jobs.sae.parts import Hears, Own, State
from jobs.sae.train import Training, pace, train
from storage import RunError
from tests.jobs.sae.planting import TOPK, both, config, fit, order, planted, randn, recovery, unit, untrained


@pytest.fixture(scope="module")
def material():
    return planted()


def test_the_same_seed_gives_the_same_weights_and_another_gives_others(material):
    rows, _ = material
    first, again, other = (fit(rows[:4000], config(epochs=1, seed=seed))[0].arrays() for seed in (1, 1, 2))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["W_dec"], other["W_dec"])


def test_a_loss_that_is_not_finite_stops_the_training_and_says_when(material):
    rows, _ = material
    with (
        pytest.raises(RunError, match=r"the loss is nan at step [1-9]\d*, after \d+ rows \(it was"),
        np.errstate(all="ignore"),
    ):
        fit(rows[:6000], config(lr=1e30, dictionary=sae.Free(), epochs=3))


def test_the_learning_rate_rises_stays_and_falls():
    assert [pace(at, 0.2, 0.5) for at in (0, 0.1, 0.2, 0.5, 0.75, 1)] == [0, 0.5, 1, 1, 0.5, 0]
    assert pace(0.0, 0, 0) == pace(1.0, 0, 0) == 1


def test_the_relu_loss_is_the_squared_error_and_the_length_weighted_l1(material):
    rows, _ = material
    coder = untrained(rows, config(width=50, activation=sae.Relu(l1=0.3), dictionary=sae.Free())).train()
    coder.own_dictionary["W_dec"].data *= 2
    x = rows[:100] * coder.scale_D - coder.b_dec_E
    z = (x @ coder.W_enc_FD.T + coder.b_enc_F).relu()
    error = (x - z @ coder.atoms()).square().mean()
    wanted = error + 0.3 * (z * coder.atoms().norm(dim=1)).sum(1).mean() / 32**0.5
    loss, _, found = total(coder, rows[:100], rows[:100], torch.zeros(50, dtype=torch.bool), sae.AuxK())
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(found, error.detach())


@pytest.mark.parametrize("normalise", ["isotropic", "standardise"])
def test_a_last_batch_of_one_row_harms_nothing(material, normalise):
    rows, _ = material
    chosen = config(
        width=64, batch=100, epochs=4, normalise=normalise, aux=sae.AuxK(dead_after=50), activation=sae.TopK(k=1)
    )
    training = Training(untrained(rows, chosen), chosen, 4 * 1001, both(rows[-500:]))
    train([training], order(rows[:1001], chosen))
    assert training.history[-1].rows == 4 * 1001
    assert np.isnan(training.history[-1].fvu)
    assert np.isfinite(training.history[-1].held_out_fvu)
    assert max(float(state["exp_avg_sq"].max()) for state in training._optimiser.state.values()) < 1


def test_k_means_starts_point_where_rows_differ_and_not_along_their_mean(material):
    rows, atoms = material
    chosen = config(width=60, dictionary=sae.Free(candidates=KMeans(n=80)), epochs=12)
    first = unit(untrained(rows, chosen).atoms_FD)
    assert float((first @ first.T).mean()) < 0.2
    assert recovery(fit(rows, chosen)[0], atoms) > 0.9


EVERY = [sae.TopK(k=3), sae.BatchTopK(k=3), sae.Relu(), sae.Gated(), sae.JumpRelu(threshold=0.02)]


@pytest.mark.parametrize(
    ("activation", "encoder"),
    [*((one, encoder) for one in EVERY for encoder in ("linear", "tied")), (sae.MatchingPursuit(k=3), "tied")],
    ids=lambda one: one if isinstance(one, str) else type(one).__name__,
)
def test_the_decoders_bias_moves_as_if_it_were_taken_off_every_row(material, activation, encoder):
    rows, _ = material
    coder = untrained(rows, config(width=50, activation=activation, encoder=encoder)).train()
    hears = coder.hears(rows[:200])
    x_BD = coder.normalise(rows[:200]) - coder.b_dec_E
    plain = Hears(x_BD, coder.atoms() if encoder == "tied" else coder.W_enc_FD, coder.b_enc_F)
    target_BD, moved = randn(200, 32), {name: p for name, p in coder.named_parameters() if "threshold" not in name}
    grads = []
    for one in (hears, plain):
        codes = activation.encode(one, coder.own_activation, True)
        loss = (codes.mix(coder.atoms()) - target_BD).square().mean()
        grads.append(torch.autograd.grad(loss, moved.values(), allow_unused=True))
    for name, one, other in zip(moved, *grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7, msg=lambda said, name=name: f"{name}: {said}")
    assert grads[0][list(moved).index("b_dec_E")].abs().max() > 1e-5


def test_the_auxiliary_loss_is_what_dead_features_leave_of_the_residual(material):
    rows, _ = material
    coder = untrained(rows, config(width=50))
    x, residual = rows[:100] - 3, randn(100, 32)
    dead = torch.arange(50) % 2 == 0
    scores = (x @ coder.W_enc_FD.T).masked_fill(~dead, -torch.inf)
    kept = torch.zeros_like(scores).scatter(1, scores.topk(16).indices, 1.0)
    rebuilt = torch.where(kept > 0, scores.relu(), 0.0) @ coder.atoms_FD
    hears = Hears(x, coder.W_enc_FD, coder.b_enc_F)
    wanted = (residual - rebuilt).square().sum() / (residual - residual.mean(0)).square().sum()
    torch.testing.assert_close(auxiliary(hears, coder.atoms_FD, residual, dead), wanted)


def test_nothing_is_added_while_no_feature_is_dead(material):
    rows, _ = material
    coder, x = untrained(rows, config(width=50)).train(), rows[:100]
    none = torch.zeros(50, dtype=torch.bool)
    with_aux, without = (total(coder, x, x, none, sae.AuxK(weight=weight))[0] for weight in (1.0, 0.0))
    assert with_aux == without


@pytest.mark.parametrize(("weight", "alive"), [(1 / 32, True), (0.0, False)])
def test_dead_features_are_revived_by_the_auxiliary_loss_and_only_by_it(material, weight, alive):
    rows, _ = material
    chosen = config(batch=512, epochs=6, aux=sae.AuxK(weight=weight, dead_after=2000))
    coder = untrained(rows, chosen)
    coder.b_enc_F.data[32:] = -0.3
    one = Training(coder, chosen, 6 * len(rows), both(rows[:1000]))
    train([one], map(both, list(rows.split(512)) * 6))
    history = one.history
    assert (history[-1].dead < 0.1) == alive
    assert max(point.dead for point in history) >= 0.4


def test_unit_norm_drops_the_gradient_along_an_atom_and_nothing_else():
    atoms, gradient = random_atoms(9, 5, 0), randn(9, 5)
    across = gradient.clone()
    own = State(Own({"W_dec": atoms}))
    own["W_dec"].grad = across
    sae.UnitNorm().project_gradient_(own)
    torch.testing.assert_close((across * atoms).sum(1), torch.zeros(9), atol=1e-6, rtol=0)
    along = gradient - across
    torch.testing.assert_close(along, (along * atoms).sum(1, keepdim=True) * atoms)


@pytest.mark.parametrize("activation", [TOPK, sae.BatchTopK(k=3), sae.Relu(l1=0.2), sae.JumpRelu(), sae.Gated()])
@pytest.mark.parametrize("dictionary", [sae.UnitNorm(), sae.Archetypal(candidates=KMeans(n=100), delta=0.1)])
def test_in_bfloat16_on_the_way_of_a_gpu_training_ends_about_where_float32_does(
    material, monkeypatch, activation, dictionary
):
    rows = material[0][:6000]
    for module in (codes, picking):
        monkeypatch.setattr(module, "gathers", lambda like: False)
    chosen = config(
        activation=activation, dictionary=dictionary, batch=512, epochs=3, normalise="centre", prefixes=(16,)
    )
    exact = fit(rows, chosen, held=500)[1][-1].held_out_fvu
    monkeypatch.setattr(Training, "_autocast", lambda self: torch.autocast("cpu", torch.bfloat16))
    coder, history = fit(rows, chosen, held=500)
    assert history[-1].held_out_fvu == pytest.approx(exact, rel=0.1)
    assert all(parameter.dtype == torch.float32 for parameter in coder.parameters())
