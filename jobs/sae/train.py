"""One training loop for every coder: batches in, a better coder and its history out.

B rows of a batch, F features, D dimensions of a hidden state, P rows of the held-out probe.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from jobs.sae.coder import Coder
from jobs.sae.config import Config
from jobs.sae.losses import total
from jobs.sae.metrics import fvu
from storage.errors import RunError

_POINTS = 40
"""How many points of its course a training records."""


@dataclass(frozen=True)
class Point:
    """Where a training stood after `rows` rows."""

    rows: int
    loss: float
    """Of the last batch."""
    fvu: float
    """Of the last batch, before the step that learnt from it."""
    held_out_fvu: float
    """Of the probe rows."""
    dead: float
    """Share of the features that have not fired for `aux.dead_after` rows."""


def train(coder: Coder, config: Config, batches: Iterable[Tensor], n_rows: int, probe_PD: Tensor) -> list[Point]:
    """Train `coder` in place on `batches`, `n_rows` rows in all."""
    optimiser = torch.optim.Adam(coder.parameters(), lr=config.lr, fused=True)
    silent_F = torch.zeros(config.width, dtype=torch.int64, device=coder.scale.device)
    history: list[Point] = []
    seen = 0
    for x_BD in batches:
        for group in optimiser.param_groups:
            group["lr"] = config.lr * pace((seen + len(x_BD) / 2) / n_rows, config.warmup, config.decay)
        dead_F = silent_F >= config.aux.dead_after
        optimiser.zero_grad()
        loss, codes, error = total(coder, x_BD, dead_F, config.aux)
        loss.backward()  # type: ignore[no-untyped-call]
        coder.project_gradient_()
        optimiser.step()
        coder.project_()
        seen += len(x_BD)
        silent_F = (silent_F + len(x_BD)).masked_fill(codes.fired(config.width), 0)
        if seen * _POINTS // n_rows > len(history):
            history.append(_point(coder, x_BD, probe_PD, seen, float(loss.detach()), float(error.detach()), dead_F))
    return history


def pace(progress: float, warmup: float, decay: float) -> float:
    """Share of the highest learning rate: linear up, level, linear down to 0; `progress` in [0, 1]."""
    up = progress / warmup if warmup else 1.0
    down = (1 - progress) / decay if decay else 1.0
    return max(0.0, min(1.0, up, down))


@torch.no_grad()
def _point(coder: Coder, x_BD: Tensor, probe_PD: Tensor, seen: int, loss: float, error: float, dead_F: Tensor) -> Point:
    if not math.isfinite(loss):
        raise RunError(f"the loss is {loss} after {seen} rows: lower `lr`, or look for extreme rows in the cache")
    spread = (x_BD - x_BD.mean(0)).square().mean() * coder.scale.square()
    return Point(
        rows=seen,
        loss=loss,
        fvu=error / float(spread),
        held_out_fvu=fvu(probe_PD, coder.decode(coder.encode(probe_PD))),
        dead=float(dead_F.float().mean()),
    )
