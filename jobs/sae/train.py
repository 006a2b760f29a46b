"""One training loop for every coder, and for many at once: batches in, better coders and their histories out.

B rows of a batch, F features, D dimensions of an input, E of a target, P rows of the held-out probe.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch

from jobs.sae.coder import Coder
from jobs.sae.config import Config
from jobs.sae.losses import total
from jobs.sae.metrics import fvu
from jobs.sae.parts import Batch
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
    l0: float
    """Active features per row, in the last batch."""
    dead: float
    """Share of the features that have not fired for `aux.dead_after` rows."""
    lr: float
    """Of the last step."""

    def __str__(self) -> str:
        return f"fvu {self.held_out_fvu:.3f}, L0 {self.l0:.1f}, {self.dead:.1%} dead"


class Training:
    """One coder on its way; `n_rows` rows in all."""

    def __init__(self, coder: Coder, config: Config, n_rows: int, probe: Batch) -> None:
        self.coder = coder.train()
        self.seen = self.steps = 0
        """Rows and batches that it learnt from."""
        self.kept_at = 0
        """Rows seen when a checkpoint was last kept."""
        self._loss = self._good = torch.zeros(())
        self.history: list[Point] = []
        self._config, self.n_rows, self._probe = config, n_rows, probe
        self._trained = {name: p for name, p in coder.named_parameters() if p.requires_grad}
        self._optimiser = torch.optim.Adam(self._trained.values(), lr=config.lr, fused=True)
        self._silent_F = torch.zeros(config.width, dtype=torch.int64, device=coder.b_enc_F.device)

    def step(self, batch: Batch) -> None:
        """Learn from one batch."""
        config, n = self._config, len(batch.x_BD)
        progress = (self.seen + n / 2) / self.n_rows
        lr = config.lr * pace(progress, config.warmup, config.decay)
        for group in self._optimiser.param_groups:
            group["lr"] = lr
        dead_F = self._silent_F >= config.aux.dead_after
        self._optimiser.zero_grad()
        with self._autocast():
            loss, codes, error = total(
                self.coder, batch.x_BD, batch.y_BE, dead_F, config.aux, config.prefixes, progress
            )
        loss.backward()  # type: ignore[no-untyped-call]
        self.coder.project_gradient_()
        self._optimiser.step()
        self.coder.project_()
        self.seen, self.steps = self.seen + n, self.steps + 1
        self._loss = loss.detach()
        if self._loss.device.type == "cpu":  # elsewhere asking would wait for the step to end
            self.require_finite()
        self._silent_F = (self._silent_F + n).masked_fill(codes.fired(config.width), 0)
        if self.seen * _POINTS // self.n_rows > len(self.history):
            l0 = codes.count() / n
            self._note(batch, float(error), l0, float(dead_F.float().mean()), lr)

    def require_finite(self) -> None:
        """`RunError` where the last loss is not a number, with the step and what there is to go back to."""
        if not math.isfinite(float(self._loss)):
            raise RunError(
                f"the loss is {float(self._loss)} at step {self.steps}, after {self.seen} rows (it was "
                f"{float(self._good):.4g} when last looked at; last checkpoint: of row {self.kept_at}): lower `lr`, or "
                "look for extreme rows in the cache"
            )
        self._good = self._loss

    def _autocast(self) -> torch.autocast:
        on_gpu = self.coder.b_enc_F.device.type == "cuda"
        return torch.autocast("cuda", torch.bfloat16, enabled=on_gpu and self._config.precision == "bfloat16")

    @torch.no_grad()
    def _note(self, batch: Batch, error: float, l0: float, dead: float, lr: float) -> None:
        self.require_finite()
        coder, probe = self.coder.eval(), self._probe
        held_out = fvu(probe.y_BE, coder.decode(coder.encode(probe.x_BD), probe.x_BD))
        coder.train()
        spread = float(((batch.y_BE - batch.y_BE.mean(0)) * coder.scale_E).square().mean())
        share = error / spread if spread else math.nan  # the last batch may be a single row
        self.history.append(Point(self.seen, float(self._loss), share, held_out, l0, dead, lr))

    def state(self) -> dict[str, np.ndarray]:
        """All that the next step depends on."""
        coder = {f"coder.{name}": tensor for name, tensor in self.coder.state_dict().items()}
        moments = {
            f"adam.{name}.{key}": value
            for name, parameter in self._trained.items()
            for key, value in self._optimiser.state[parameter].items()
        }
        points = np.array([list(asdict(point).values()) for point in self.history], np.float64).reshape(-1, 7)
        arrays = {name: tensor.detach().cpu().numpy() for name, tensor in {**coder, **moments}.items()}
        seen = np.array([self.seen, self.steps])
        return {**arrays, "silent": self._silent_F.cpu().numpy(), "seen": seen, "history": points}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Go on from what `state` gave."""
        tensors = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
        device = self._silent_F.device
        coder = {name.removeprefix("coder."): t for name, t in tensors.items() if name.startswith("coder.")}
        self.coder.load_state_dict(coder)
        for name, parameter in self._trained.items():
            prefix = f"adam.{name}."
            kept = {key.removeprefix(prefix): t.to(device) for key, t in tensors.items() if key.startswith(prefix)}
            if kept:
                self._optimiser.state[parameter] = kept
        self._silent_F = tensors["silent"].to(device)
        self.seen, self.steps = (int(n) for n in arrays["seen"])
        self.kept_at = self.seen
        self.history = [Point(int(rows), *map(float, rest)) for rows, *rest in arrays["history"]]


def train(
    trainings: Sequence[Training], batches: Iterable[Batch], after: Callable[[Sequence[Training]], object] = len
) -> None:
    """Every coder learns from every batch; `after` is called behind each."""
    for batch in batches:
        for training in trainings:
            training.step(batch)
        after(trainings)
    for training in trainings:
        training.coder.eval()


def pace(progress: float, warmup: float, decay: float) -> float:
    """Share of the highest learning rate: linear up, level, linear down to 0; `progress` in [0, 1]."""
    up = progress / warmup if warmup else 1.0
    down = (1 - progress) / decay if decay else 1.0
    return max(0.0, min(1.0, up, down))
