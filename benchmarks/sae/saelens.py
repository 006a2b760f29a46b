"""SAELens: a step of its `SAETrainer`; a trained coder is used as it is saved."""

import tempfile
from typing import Any

import sae_lens
from sae_lens.config import SAETrainerConfig
from sae_lens.training.sae_trainer import SAETrainer
from torch import Tensor

from benchmarks.sae.task import DECAY, WARMUP, Learner, Parts, Task, counted, serve

_LR = 3e-4
"""Its own default."""


def make(rows: Tensor, task: Task) -> Learner:
    """Its defaults; JumpReLU with the penalty that aims at an L0."""
    name, settings = {
        "topk": ("TopK", {"k": task.k}),
        "batch_topk": ("BatchTopK", {"k": task.k}),
        "relu": ("Standard", {}),
        "jump_relu": ("JumpReLU", {"jumprelu_sparsity_loss_mode": "quadratic", "target_l0": task.k}),
    }[task.kind]
    config = getattr(sae_lens, f"{name}TrainingSAEConfig")(d_in=rows.shape[1], d_sae=task.width, **settings)
    sae = getattr(sae_lens, f"{name}TrainingSAE")(config)
    trainer: Any = SAETrainer(_settings(task), sae, data_provider=iter([]))

    def step(x_BD: Tensor) -> None:
        trainer.step(x_BD)
        trainer.n_training_steps += 1

    def codes(x_BD: Tensor) -> tuple[Tensor, Tensor]:
        with tempfile.TemporaryDirectory() as folder:
            sae.save_inference_model(folder)
            saved = sae_lens.SAE.load_from_disk(folder)
        z_BF = saved.encode(x_BD)
        return counted(saved.decode(z_BF), z_BF)

    return Parts(step, codes)


def _settings(task: Task) -> SAETrainerConfig:
    lr = task.lr or _LR
    return SAETrainerConfig(
        total_training_samples=task.steps * task.batch,
        train_batch_size_samples=task.batch,
        lr=lr,
        lr_end=lr / 10,
        lr_warm_up_steps=int(WARMUP * task.steps),
        lr_decay_steps=int(DECAY * task.steps),
    )


if __name__ == "__main__":
    serve(dict.fromkeys(("topk", "batch_topk", "relu", "jump_relu"), make))
