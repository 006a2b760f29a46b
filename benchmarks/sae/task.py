"""What every system is given: one shape, one kind of coder, the same rows in the same order. Knows only torch.

B rows of a batch, D dimensions of a row.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

Kind = Literal["topk", "batch_topk", "relu", "jump_relu"]
HELD = 4096
"""Rows, the first ones, that are never learnt from."""
WARMUP, DECAY = 0.05, 0.3
"""Shares of the steps in which the learning rate rises from 0, and falls to 0 at the end."""


@dataclass(frozen=True)
class Task:
    """A training of so many steps."""

    rows: str
    """A .npy file, float32 [N, D]: mean 0, variance about 1."""
    kind: Kind
    width: int
    k: int
    """Active features of a row; what JumpReLU aims at; of no meaning to ReLU."""
    steps: int
    batch: int
    threads: int
    lr: float | None
    """None: the system's own."""


class Learner(Protocol):
    """A coder being trained by a system's own means."""

    def step(self, x_BD: Tensor) -> None:
        """Learn from one batch."""

    def codes(self, x_BD: Tensor) -> tuple[Tensor, Tensor]:
        """As it would be used: what is rebuilt [B, D], and how many features of each row are active [B]."""


@dataclass(frozen=True)
class Parts:
    """A learner made of functions."""

    step: Callable[[Tensor], None]
    codes: Callable[[Tensor], tuple[Tensor, Tensor]]


Make = Callable[[Tensor, Task], Learner]
"""From the training rows."""


def counted(rebuilt_BD: Tensor, z_BF: Tensor) -> tuple[Tensor, Tensor]:
    """What `codes` gives, of dense codes."""
    return rebuilt_BD, (z_BF != 0).sum(1)


def pace(step: int, steps: int) -> float:
    """Share of the highest learning rate, for systems that take any schedule of torch."""
    progress = (step + 0.5) / steps
    return min(1.0, progress / WARMUP, (1 - progress) / DECAY)


def serve(kinds: Mapping[str, Make]) -> None:
    """Answer lines on standard input: a number of steps with the seconds they took, `measure` with FVU and L0.

    Arguments: the task, and the number of the open file that answers go to.
    """
    task, answers = Task(**json.loads(sys.argv[1])), os.fdopen(int(sys.argv[2]), "w", buffering=1)
    torch.set_num_threads(task.threads)
    torch.manual_seed(0)
    rows = torch.from_numpy(np.load(task.rows))
    held, rows = rows[:HELD], rows[HELD:]
    learner = kinds[task.kind](rows, task)
    order = torch.Generator().manual_seed(0)
    for line in sys.stdin:
        if line.strip() == "measure":
            print(json.dumps(_measured(learner, held)), file=answers)
            continue
        batches = [rows[torch.randint(len(rows), (task.batch,), generator=order)] for _ in range(int(line))]
        began = time.perf_counter()
        for x_BD in batches:
            learner.step(x_BD)
        print(json.dumps(time.perf_counter() - began), file=answers)


@torch.no_grad()
def _measured(learner: Learner, held: Tensor) -> dict[str, float]:
    rebuilt, active = learner.codes(held)
    fvu = (held - rebuilt).square().sum() / (held - held.mean(0)).square().sum()
    return {"fvu": float(fvu), "l0": float(active.float().mean())}
