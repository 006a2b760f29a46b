"""Activations: which features of a row speak, and how loudly. Each is one class and one place in the union.

B rows of a batch, F features, K active features per row.
"""

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor

from jobs.sae.codes import Codes
from jobs.sae.gated import Gated
from jobs.sae.jump import JumpRelu
from jobs.sae.parts import Forward, Hears, Own, State
from jobs.sae.pursuit import MatchingPursuit, OrthogonalPursuit
from storage.value import Value

_KEPT = 0.99
"""Share of its last value that the running threshold of BatchTopK keeps at a step. A longer memory (.999) lags behind
the decay of the learning rate: on a planted dictionary (3 seeds) L0 was then 6 to 11 % above k, now 2 to 5 %."""
_FAINTEST = 1e-3
"""Codes below it count as this much in z^p, whose slope grows without bound at zero."""


class TopK(Value, tag_field="kind", tag="topk"):
    """The k largest pre-activations of each row, where positive (Gao et al. 2024, arXiv 2406.04093)."""

    k: Annotated[int, Meta(ge=1)] = 32
    """Features per row, at most."""

    def start(self, width: int) -> Own:
        """Nothing of its own."""
        return Own()

    def encode(self, hears: Hears, own: State, training: bool) -> Codes:
        """z = relu(TopK(x W^T + b))."""
        return hears.loudest(self.k).positive()

    def penalty(self, forward: Forward, own: State) -> Tensor | None:
        """None: k bounds the codes."""
        return None


class BatchTopK(Value, tag_field="kind", tag="batch_topk"):
    """The B k largest of a batch of B rows in training; above a threshold learnt there, afterwards.

    Bussmann et al. 2024, arXiv 2412.06410. The threshold is the running mean of the smallest code that was kept.
    """

    k: Annotated[int, Meta(ge=1)] = 32
    """Features per row, on average."""

    def start(self, width: int) -> Own:
        """The threshold, and how much of the running mean has been seen."""
        return Own(kept={"threshold": torch.zeros(()), "weight": torch.zeros(())})

    def encode(self, hears: Hears, own: State, training: bool) -> Codes:
        """z = what is kept of relu(x W^T + b)."""
        if not training:
            return hears.above(float(own["threshold"]))
        codes = hears.loudest_of_batch(self.k)
        with torch.no_grad():
            if len(codes.values_A):
                own["weight"].mul_(_KEPT).add_(1 - _KEPT)
                own["threshold"].lerp_(codes.values_A.min().to(own["threshold"]), float((1 - _KEPT) / own["weight"]))
        return codes

    def penalty(self, forward: Forward, own: State) -> Tensor | None:
        """None: k bounds the codes."""
        return None


class Relu(Value, tag_field="kind", tag="relu"):
    """Every positive pre-activation, kept few by an l1 penalty (Bricken et al. 2023)."""

    l1: Annotated[float, Meta(ge=0)] = 0.1
    """Weight of sum_f z_f |W_f| / sqrt(D), beside a squared error per dimension of variance about 1."""

    def start(self, width: int) -> Own:
        """Nothing of its own."""
        return Own()

    def encode(self, hears: Hears, own: State, training: bool) -> Codes:
        """z = relu(x W^T + b)."""
        return hears.above()

    def penalty(self, forward: Forward, own: State) -> Tensor:
        """l1 sum_f z_f |W_f| / sqrt(E), the mean over rows."""
        return self.l1 * forward.codes.mix(forward.lengths_F[:, None]).mean() * forward.per_dimension


class PAnneal(Value, tag_field="kind", tag="p_anneal"):
    """Every positive pre-activation, under a penalty on z^p whose p falls from 1 (Karvonen et al. 2024).

    arXiv 2408.00113, section 3.2: wherever p changes, the weight is scaled so that the penalty of that batch does not.
    """

    l1: Annotated[float, Meta(ge=0)] = 0.1
    """Weight of sum_f (z_f |W_f|)^p / sqrt(D) while p is 1."""
    p_end: Annotated[float, Meta(gt=0, lt=1)] = 0.2
    """The last p."""
    after: Annotated[float, Meta(ge=0, lt=1)] = 0.25
    """Share of training before p begins to fall."""
    changes: Annotated[int, Meta(ge=1)] = 20
    """In how many steps it falls."""

    def start(self, width: int) -> Own:
        """The p of the last batch, and the weight's factor that belongs to it."""
        return Own(kept={"p": torch.ones(()), "factor": torch.ones(())})

    def encode(self, hears: Hears, own: State, training: bool) -> Codes:
        """z = relu(x W^T + b)."""
        return hears.above()

    def p(self, progress: float) -> float:
        """p after that share of training: level, then down by equal changes, the last of them at the end."""
        steps = int(max(0.0, progress - self.after) / (1 - self.after) * (self.changes + 1))
        return 1 - (1 - self.p_end) * min(steps, self.changes) / self.changes

    def penalty(self, forward: Forward, own: State) -> Tensor:
        """l1 factor sum_f (z_f |W_f|)^p / sqrt(E), the mean over rows."""
        _, features_A, values_A = forward.codes.active()
        cost_A, n = values_A * forward.lengths_F[features_A], len(forward.target_BE)
        p = self.p(forward.progress)
        if p != float(own["p"]):
            before, after = (_power(cost_A.detach(), one) for one in (float(own["p"]), p))
            own["factor"].mul_(before / after.clamp_min(torch.finfo(after.dtype).tiny))
            own["p"].fill_(p)
        return self.l1 * own["factor"] * _power(cost_A, float(own["p"])) / n * forward.per_dimension


def _power(cost_A: Tensor, p: float) -> Tensor:
    """sum c^p."""
    return (cost_A.clamp_min(_FAINTEST) ** p).sum()


Activation = TopK | BatchTopK | Relu | PAnneal | JumpRelu | Gated | MatchingPursuit | OrthogonalPursuit
