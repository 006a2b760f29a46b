"""JumpReLU: a feature speaks above a threshold of its own, which is learnt (Rajamanoharan et al. 2024, 2407.14435).

B rows of a batch, F features, h the bandwidth, u = (pre-activation - threshold) / h.
"""

import math
from collections.abc import Callable
from typing import Annotated, Any, Literal

import torch
from msgspec import Meta
from torch import Tensor

from jobs.sae.codes import Codes, Dense
from jobs.sae.parts import Forward, Hears, Own, State
from storage.value import Value

Kernel = Literal["rectangle", "gaussian", "triangular", "cosine", "epanechnikov", "quartic", "silverman", "cauchy"]

KERNELS: dict[Kernel, Callable[[Tensor], Tensor]] = {
    "rectangle": lambda u: (u.abs() < 0.5).to(u.dtype),
    "gaussian": lambda u: (-u.square() / 2).exp() / math.sqrt(2 * math.pi),
    "triangular": lambda u: (1 - u.abs()).clamp_min(0),
    "cosine": lambda u: math.pi / 4 * (math.pi / 2 * u.clamp(-1, 1)).cos(),
    "epanechnikov": lambda u: 0.75 * (1 - u.square()).clamp_min(0),
    "quartic": lambda u: 15 / 16 * (1 - u.square()).clamp_min(0).square(),
    "silverman": lambda u: (-u.abs() / math.sqrt(2)).exp() * (u.abs() / math.sqrt(2) + math.pi / 4).sin() / 2,
    "cauchy": lambda u: 1 / (math.pi * (1 + u.square())),
}
"""Each integrates to 1, so that a threshold's pseudo-gradient is that of the expectation, smoothed over h."""


class L0Weight(Value, tag_field="kind", tag="l0_weight"):
    """A price for every feature that speaks."""

    weight: Annotated[float, Meta(ge=0)] = 1e-3
    """Of the mean L0, beside a squared error per dimension of variance about 1."""

    def cost(self, l0: Tensor) -> Tensor:
        """weight L0."""
        return self.weight * l0


class L0Target(Value, tag_field="kind", tag="l0_target"):
    """A price for missing the wanted L0."""

    l0: Annotated[float, Meta(gt=0)] = 32.0
    """Features per row, on average."""
    weight: Annotated[float, Meta(ge=0)] = 1.0
    """Of the squared relative miss."""

    def cost(self, l0: Tensor) -> Tensor:
        """weight (L0 / target - 1)^2."""
        return self.weight * (l0 / self.l0 - 1).square()


class JumpRelu(Value, tag_field="kind", tag="jump_relu"):
    """Pre-activations above the feature's threshold, unchanged."""

    sparsity: L0Weight | L0Target = L0Target()
    """What keeps the codes few."""
    threshold: Annotated[float, Meta(gt=0)] = 0.5
    """At the start, in units where a dimension's variance is about 1."""
    bandwidth: Annotated[float, Meta(gt=0)] = 0.5
    """How near its threshold a pre-activation must be to move it, in the same units."""
    kernel: Kernel = "rectangle"
    """How that nearness counts."""

    def start(self, width: int) -> Own:
        """A threshold for each feature."""
        return Own(trained={"threshold": torch.full((width,), self.threshold)})

    def encode(self, hears: Hears, own: State, training: bool) -> Codes:
        """z = x [x > threshold]; a threshold that a step took below 0 is 0 again, for below nothing moves it."""
        if training:
            with torch.no_grad():
                own["threshold"].clamp_(min=0)
        return Dense(jump(hears.all_BF, own["threshold"].clamp_min(0), self.bandwidth, self.kernel))

    def penalty(self, forward: Forward, own: State) -> Tensor:
        """The price of the batch's mean L0."""
        open_BF = step(forward.hears.all_BF, own["threshold"].clamp_min(0), self.bandwidth, self.kernel)
        return self.sparsity.cost(open_BF.sum(1).mean())


def jump(x_BF: Tensor, threshold_F: Tensor, bandwidth: float, kernel: Kernel) -> Tensor:
    """x [x > t]; for the threshold, d/dt = -(t / h) K(u), whose mean over x is that of the true derivative."""
    jumped: Tensor = _Jump.apply(x_BF, threshold_F, bandwidth, kernel)  # type: ignore[no-untyped-call]
    return jumped


def step(x_BF: Tensor, threshold_F: Tensor, bandwidth: float, kernel: Kernel) -> Tensor:
    """[x > t] as a number; d/dt = -K(u) / h, and none for x."""
    stepped: Tensor = _Step.apply(x_BF, threshold_F, bandwidth, kernel)  # type: ignore[no-untyped-call]
    return stepped


def _near(x_BF: Tensor, threshold_F: Tensor, bandwidth: float, kernel: Kernel) -> Tensor:
    """K(u) / h."""
    return KERNELS[kernel]((x_BF - threshold_F) / bandwidth) / bandwidth


class _Jump(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BF: Tensor, threshold_F: Tensor, bandwidth: float, kernel: Kernel) -> Tensor:
        ctx.save_for_backward(x_BF, threshold_F)
        ctx.shape = bandwidth, kernel
        return x_BF * (x_BF > threshold_F)

    @staticmethod
    def backward(ctx: Any, grad_BF: Tensor) -> tuple[Tensor | None, ...]:
        x_BF, threshold_F = ctx.saved_tensors
        grad_F = -threshold_F * (grad_BF * _near(x_BF, threshold_F, *ctx.shape)).sum(0)
        return grad_BF * (x_BF > threshold_F), grad_F, None, None


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BF: Tensor, threshold_F: Tensor, bandwidth: float, kernel: Kernel) -> Tensor:
        ctx.save_for_backward(x_BF, threshold_F)
        ctx.shape = bandwidth, kernel
        return (x_BF > threshold_F).to(x_BF.dtype)

    @staticmethod
    def backward(ctx: Any, grad_BF: Tensor) -> tuple[Tensor | None, ...]:
        x_BF, threshold_F = ctx.saved_tensors
        return None, -(grad_BF * _near(x_BF, threshold_F, *ctx.shape)).sum(0), None, None
