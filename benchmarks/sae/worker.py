"""One system, run by its own interpreter: takes steps and measures itself when told to on standard input.

`python worker.py SYSTEM ROWS WIDTH K BATCH STEPS`; each line in, a number of steps or "fvu", gives a line out: seconds,
or the held-out fraction of variance unexplained. Every system gets the same rows in the same order.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import torch

Step, Rebuild = Callable[[torch.Tensor], None], Callable[[torch.Tensor], torch.Tensor]


def garner(rows: torch.Tensor, width: int, k: int, batch: int, steps: int) -> tuple[Step, Rebuild]:
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from jobs.sae import Config, TopK
    from jobs.sae.parts import Batch
    from jobs.sae.start import start
    from jobs.sae.train import Training
    from storage import Site
    from storage.moments import measure

    config = Config(cache="", site=Site("resid", 0), width=width, activation=TopK(k=k), batch=batch)
    coder = start(config, [measure(rows.numpy())])
    training = Training(coder, config, steps * batch, Batch(rows[:64], rows[:64]))

    def rebuild(x: torch.Tensor) -> torch.Tensor:
        coder.eval()
        rebuilt = coder.decode(coder.encode(x))
        coder.train()
        return rebuilt

    return lambda x: training.step(Batch(x, x)), rebuild


def saelens(rows: torch.Tensor, width: int, k: int, batch: int, steps: int) -> tuple[Step, Rebuild]:
    from sae_lens import LoggingConfig, TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=rows.shape[1], d_sae=width, k=k, device="cpu"))
    config = SAETrainerConfig(
        n_checkpoints=0,
        checkpoint_path=None,
        save_final_checkpoint=False,
        total_training_samples=steps * batch,
        device="cpu",
        autocast=False,
        lr=3e-4,
        lr_end=3e-5,
        lr_scheduler_name="constant",
        lr_warm_up_steps=0,
        adam_beta1=0.9,
        adam_beta2=0.999,
        lr_decay_steps=0,
        n_restart_cycles=1,
        train_batch_size_samples=batch,
        dead_feature_window=1000,
        feature_sampling_window=2000,
        logger=LoggingConfig(log_to_wandb=False),
    )
    trainer = SAETrainer(cfg=config, sae=sae, data_provider=iter([]))

    def step(x: torch.Tensor) -> None:
        trainer._train_step(sae=sae, sae_in=x)
        trainer.n_training_steps += 1

    return step, lambda x: sae.decode(sae.encode(x))


def dictionary_learning(rows: torch.Tensor, width: int, k: int, batch: int, steps: int) -> tuple[Step, Rebuild]:
    from dictionary_learning.trainers.top_k import TopKTrainer

    trainer = TopKTrainer(
        steps=steps,
        activation_dim=rows.shape[1],
        dict_size=width,
        k=k,
        layer=0,
        lm_name="",
        warmup_steps=0,
        device="cpu",
    )
    taken = iter(range(10**9))
    return lambda x: trainer.update(next(taken), x), lambda x: trainer.ae.decode(trainer.ae.encode(x))


def overcomplete(rows: torch.Tensor, width: int, k: int, batch: int, steps: int) -> tuple[Step, Rebuild]:
    # both want a torchvision built for the same torch, which has no CPU wheel everywhere; training needs neither
    sys.modules["overcomplete.models"] = sys.modules["overcomplete.visualization"] = MagicMock()
    from overcomplete.sae import TopKSAE

    sae = TopKSAE(rows.shape[1], nb_concepts=width, top_k=k, device="cpu")
    optimiser = torch.optim.Adam(sae.parameters(), lr=5e-4)

    def step(x: torch.Tensor) -> None:
        optimiser.zero_grad()
        _, codes = sae.encode(x)
        (x - sae.decode(codes)).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
        optimiser.step()

    return step, lambda x: sae.decode(sae.encode(x)[1])


SYSTEMS = {
    "garner": garner,
    "saelens": saelens,
    "dictionary_learning": dictionary_learning,
    "overcomplete": overcomplete,
}


def main() -> None:
    system, path, *numbers = sys.argv[1:]
    width, k, batch, steps = map(int, numbers)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = torch.from_numpy(np.load(path))
    held, rows = rows[:4096], rows[4096:]
    step, rebuild = SYSTEMS[system](rows, width, k, batch, steps)
    order = torch.Generator().manual_seed(0)
    for line in sys.stdin:
        if line.strip() == "fvu":
            with torch.no_grad():
                error = (held - rebuild(held)).square().sum() / (held - held.mean(0)).square().sum()
            print(float(error), flush=True)
            continue
        batches = [rows[torch.randint(len(rows), (batch,), generator=order)] for _ in range(int(line))]
        began = time.perf_counter()
        for x in batches:
            step(x)
        print(time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    main()
