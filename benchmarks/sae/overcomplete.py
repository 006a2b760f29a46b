"""overcomplete: the body of its `train_sae`, which takes whole epochs, a batch at a time."""

import sys
from typing import Any
from unittest.mock import MagicMock

import torch
from torch import Tensor

from benchmarks.sae.task import Learner, Parts, Task, counted, pace, serve

# both want a torchvision built for the same torch, which has no CPU wheel everywhere; training needs neither
sys.modules["overcomplete.models"] = sys.modules["overcomplete.visualization"] = MagicMock()
from overcomplete.sae import SAE, BatchTopKSAE, TopKSAE  # noqa: E402
from overcomplete.sae.losses import mse_l1  # noqa: E402

_LR = 5e-4
"""Of its examples."""


def make(rows: Tensor, task: Task) -> Learner:
    """Squared error, and for ReLU its l1; it has no penalty for JumpReLU. Its BatchTopK counts k for a whole batch."""
    coder_class, settings = {
        "topk": (TopKSAE, {"top_k": task.k}),
        "batch_topk": (BatchTopKSAE, {"top_k": task.k * task.batch}),
        "relu": (SAE, {}),
    }[task.kind]
    coder: Any = coder_class(rows.shape[1], nb_concepts=task.width, device="cpu", **settings)
    optimiser = torch.optim.Adam(coder.parameters(), lr=task.lr or _LR)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: pace(step, task.steps))

    def step(x_BD: Tensor) -> None:
        optimiser.zero_grad()
        before_BF, z_BF, rebuilt_BD = coder(x_BD)
        loss = _mse(x_BD, rebuilt_BD) if task.kind != "relu" else _l1(coder, x_BD, rebuilt_BD, before_BF, z_BF)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(coder.parameters(), 1.0)
        optimiser.step()
        schedule.step()

    def codes(x_BD: Tensor) -> tuple[Tensor, Tensor]:
        coder.eval()
        z_BF = coder.encode(x_BD)[1]
        coder.train()
        return counted(coder.decode(z_BF), z_BF)

    return Parts(step, codes)


def _mse(x_BD: Tensor, rebuilt_BD: Tensor) -> Tensor:
    return (x_BD - rebuilt_BD).square().mean()


def _l1(coder: Any, x_BD: Tensor, rebuilt_BD: Tensor, before_BF: Tensor, z_BF: Tensor) -> Tensor:
    loss: Tensor = mse_l1(x_BD, rebuilt_BD, before_BF, z_BF, coder.get_dictionary())
    return loss


if __name__ == "__main__":
    serve(dict.fromkeys(("topk", "batch_topk", "relu"), make))
