"""Thresholds: pseudo-gradients against what they stand for, and the gated coder as a JumpReLU."""

import math

import pytest
import torch

from jobs import sae
from jobs.sae.codes import Dense
from jobs.sae.jump import KERNELS, L0Target, L0Weight, jump, step
from jobs.sae.parts import Hears, State
from jobs.sae.train import Training, train
from tests.jobs.sae.planting import both, config, planted, randn, untrained

THRESHOLD = 0.5


@pytest.fixture(scope="module")
def normal():
    return randn(2_000_000, 1)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("bandwidth", [0.1, 0.01])
def test_the_pseudo_gradient_of_l0_is_the_derivative_of_its_expectation(normal, kernel, bandwidth):
    threshold = torch.tensor([THRESHOLD], requires_grad=True)
    step(normal, threshold, bandwidth, kernel).mean().backward()
    density = math.exp(-(THRESHOLD**2) / 2) / math.sqrt(2 * math.pi)
    assert float(threshold.grad) == pytest.approx(-density, rel=0.1 if kernel == "cauchy" else 0.05)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_pseudo_gradient_of_the_error_is_that_of_finite_differences(normal, kernel):
    def error(threshold):
        return (jump(normal, threshold, 0.02, kernel) - 2 * normal).square().mean()

    threshold = torch.tensor([THRESHOLD], requires_grad=True)
    error(threshold).backward()
    wide = 0.02
    wanted = (error(torch.tensor([THRESHOLD + wide])) - error(torch.tensor([THRESHOLD - wide]))) / (2 * wide)
    assert float(threshold.grad) == pytest.approx(float(wanted), rel=0.1 if kernel == "cauchy" else 0.05)


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_kernel_integrates_to_one(kernel):
    u = torch.linspace(-400, 400, 4_000_001, dtype=torch.float64)
    assert float(torch.trapezoid(KERNELS[kernel](u), u)) == pytest.approx(1, abs=2e-3)


def test_encoder_and_decoder_gradients_are_those_of_finite_differences():
    x, W, b, V = (randn(*shape, seed=n).double() for n, shape in enumerate([(30, 5), (8, 5), (8,), (8, 5)]))
    own = State(sae.JumpRelu(threshold=0.3).start(8)).double()
    W.requires_grad_(), V.requires_grad_()

    def error(W, V):
        codes = sae.JumpRelu().encode(Hears(x, W, b), own, True)
        return (codes.mix(V) - x).square().mean()

    assert torch.autograd.gradcheck(error, (W, V), eps=1e-7, atol=1e-5)


def test_the_prices_of_l0():
    l0 = torch.tensor(48.0)
    assert float(L0Weight(weight=0.5).cost(l0)) == 24
    assert float(L0Target(l0=32, weight=2).cost(l0)) == 0.5


def test_a_gated_coder_is_a_jump_relu_with_other_names():
    x, W, b_gate = randn(500, 12), randn(40, 12, seed=1), randn(40, seed=2)
    gated = State(sae.Gated().start(40))
    gated.fill({"r": randn(40, seed=3).numpy(), "b_mag": (randn(40, seed=4).abs() + 9).numpy()}, "")
    codes = sae.Gated().encode(Hears(x, W, b_gate), gated, False)
    assert isinstance(codes, Dense)
    louder = gated["r"].exp()
    threshold = gated["b_mag"] - louder * b_gate  # the gate opens where W x > -b_gate
    as_jump = jump(x @ (louder[:, None] * W).T + gated["b_mag"], threshold, 0.1, "rectangle").relu()
    assert 0.1 < float((codes.z_BF > 0).float().mean()) < 0.9
    torch.testing.assert_close(codes.z_BF, as_jump, atol=1e-5, rtol=1e-6)


def test_a_threshold_that_a_step_took_below_zero_comes_back():
    rows, chosen = planted()[0], config(width=64, activation=sae.JumpRelu(sparsity=L0Target(l0=3)))
    training = Training(untrained(rows, chosen), chosen, 400 * 256, both(rows[:100]))
    training.coder.own_activation["threshold"].data.fill_(-1e-4)
    train([training], (both(rows[n * 7 : n * 7 + 256]) for n in range(400)))
    assert float((training.coder.own_activation["threshold"] > 0).float().mean()) > 0.9
    assert training.history[-1].l0 < 20
