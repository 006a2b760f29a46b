"""garner's own step, as a study takes it."""

import torch
from torch import Tensor

from benchmarks.sae.task import DECAY, WARMUP, Learner, Parts, Task, serve
from jobs.sae import BatchTopK, Config, JumpRelu, Relu, TopK
from jobs.sae.activations import Activation
from jobs.sae.jump import L0Target
from jobs.sae.parts import Batch
from jobs.sae.start import start
from jobs.sae.train import Training
from storage import Site
from storage.moments import measure


def make(rows: Tensor, task: Task) -> Learner:
    """The default config but for the activation."""
    activations: dict[str, Activation] = {
        "topk": TopK(k=task.k),
        "batch_topk": BatchTopK(k=task.k),
        "relu": Relu(),
        "jump_relu": JumpRelu(sparsity=L0Target(l0=task.k)),
    }
    chosen = {"activation": activations[task.kind], "width": task.width, "batch": task.batch}
    chosen |= {"warmup": WARMUP, "decay": DECAY} | ({"lr": task.lr} if task.lr else {})
    config = Config(cache="", site=Site("resid", 0), **chosen)  # type: ignore[arg-type]
    coder = start(config, [measure(rows.numpy())])
    training = Training(coder, config, task.steps * task.batch, Batch(rows[:64], rows[:64]))

    def codes(x_BD: Tensor) -> tuple[Tensor, Tensor]:
        coder.eval()
        found = coder.encode(x_BD)
        rebuilt_BD = coder.decode(found)
        coder.train()
        return rebuilt_BD, torch.bincount(found.active()[0], minlength=len(x_BD))

    return Parts(lambda x_BD: training.step(Batch(x_BD, x_BD)), codes)


if __name__ == "__main__":
    serve(dict.fromkeys(("topk", "batch_topk", "relu", "jump_relu"), make))
