"""sparsify: the body of its `Trainer`, which begins at a model, for one coder; TopK alone."""

import torch
from schedulefree import ScheduleFreeWrapper
from sparsify import SparseCoder, SparseCoderConfig
from sparsify.sign_sgd import SignSGD
from torch import Tensor

from benchmarks.sae.task import Learner, Parts, Task, pace, serve


def make(rows: Tensor, task: Task) -> Learner:
    """Its defaults: signs of gradients without a schedule; Adam with one where a learning rate is given."""
    coder = SparseCoder(rows.shape[1], SparseCoderConfig(num_latents=task.width, k=task.k))
    coder.b_dec.data = rows[: task.batch].mean(0)
    if task.lr is None:
        signs = SignSGD(coder.parameters(), lr=5e-3 / (task.width / 2**14) ** 0.5)
        optimiser = ScheduleFreeWrapper(signs, momentum=0.95)
        optimiser.train()
        schedule = None
    else:
        optimiser = torch.optim.Adam(coder.parameters(), lr=task.lr)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: pace(step, task.steps))

    def step(x_BD: Tensor) -> None:
        coder.set_decoder_norm_to_unit_norm()
        coder(x_BD).fvu.backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        optimiser.step()
        optimiser.zero_grad()
        if schedule is not None:
            schedule.step()

    def codes(x_BD: Tensor) -> tuple[Tensor, Tensor]:
        if task.lr is None:
            optimiser.eval()
        out = coder(x_BD)
        return out.sae_out, (out.latent_acts > 0).sum(1)

    return Parts(step, codes)


if __name__ == "__main__":
    serve({"topk": make})
