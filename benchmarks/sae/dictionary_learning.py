"""dictionary_learning: `update` of the trainer of each kind."""

from typing import Any

from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
from dictionary_learning.trainers.jumprelu import JumpReluTrainer
from dictionary_learning.trainers.standard import StandardTrainer
from dictionary_learning.trainers.top_k import TopKTrainer
from torch import Tensor

from benchmarks.sae.task import DECAY, WARMUP, Learner, Parts, Task, counted, serve


def make(rows: Tensor, task: Task) -> Learner:
    """Its defaults; what it does in the first thousands of steps is brought to the length of this training."""
    early = int(WARMUP * task.steps)
    trainer_class, settings = {
        "topk": (TopKTrainer, {"k": task.k, "threshold_start_step": early}),
        "batch_topk": (BatchTopKTrainer, {"k": task.k, "threshold_start_step": early}),
        "relu": (StandardTrainer, {"sparsity_warmup_steps": early}),
        "jump_relu": (JumpReluTrainer, {"target_l0": task.k, "sparsity_warmup_steps": early}),
    }[task.kind]
    settings |= {"warmup_steps": early, "decay_start": int((1 - DECAY) * task.steps)}
    settings |= {"lr": task.lr} if task.lr else {}
    trainer: Any = trainer_class(
        steps=task.steps,
        activation_dim=rows.shape[1],
        dict_size=task.width,
        layer=0,
        lm_name="",
        device="cpu",
        **settings,
    )
    done = iter(range(task.steps))

    def codes(x_BD: Tensor) -> tuple[Tensor, Tensor]:
        z_BF = trainer.ae.encode(x_BD)
        return counted(trainer.ae.decode(z_BF), z_BF)

    return Parts(lambda x_BD: trainer.update(next(done), x_BD), codes)


if __name__ == "__main__":
    serve(dict.fromkeys(("topk", "batch_topk", "relu", "jump_relu"), make))
