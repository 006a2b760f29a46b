"""Run by a system's own interpreter: its own trainer, fed by `shuffled` of a cache. `trains.py SYSTEM LAKE OUT`

What it saved, and what it makes of rows that training did not see, lie in OUT then, with the errors.
"""

import json
import sys
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import torch
from safetensors.torch import save_file

from jobs.core.tensors import as_tensor
from storage import Lake

WIDTH, K, BATCH, EPOCHS, LR = 64, 4, 256, 6, 2e-3
system, lake, out = sys.argv[1], Lake(sys.argv[2]), Path(sys.argv[3])
acts = lake.cache("tiny.words").site("resid.0")
keep = np.arange(len(acts)) % 10 > 0
rows = EPOCHS * int(keep.sum())
batches = map(as_tensor, acts.shuffled(batch=BATCH, epochs=EPOCHS, keep=keep))
held = as_tensor(acts[~keep])


def dictionary_learning():
    from dictionary_learning.trainers.top_k import AutoEncoderTopK, TopKTrainer
    from dictionary_learning.training import trainSAE

    settings = {"activation_dim": acts.d, "dict_size": WIDTH, "k": K, "layer": 0, "lm_name": "", "device": "cpu"}
    steps = EPOCHS * -(-int(keep.sum()) // BATCH)
    trainer = {"trainer": TopKTrainer, "steps": steps, "lr": LR, "warmup_steps": 10, "seed": 0, **settings}
    trainSAE(batches, [trainer], steps, save_dir=str(out), device="cpu")
    trained = AutoEncoderTopK(acts.d, WIDTH, K)
    trained.load_state_dict(torch.load(out / "trainer_0" / "ae.pt", weights_only=True))
    return AutoEncoderTopK(acts.d, WIDTH, K), trained, lambda coder: coder.encode(held)


def saelens():
    from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    def made():
        return TopKTrainingSAE(TopKTrainingSAEConfig(d_in=acts.d, d_sae=WIDTH, k=K))

    config = SAETrainerConfig(total_training_samples=rows, train_batch_size_samples=BATCH, lr=LR, lr_end=LR)
    trained = SAETrainer(config, made(), data_provider=batches).fit()
    trained.save_inference_model(out / "saved")
    return made(), trained, lambda coder: coder.encode(held)


def overcomplete():
    # both want a torchvision built for the same torch, which has no CPU wheel everywhere; training needs neither
    sys.modules["overcomplete.models"] = sys.modules["overcomplete.visualization"] = MagicMock()
    from overcomplete.sae import TopKSAE, train_sae

    trained = TopKSAE(acts.d, nb_concepts=WIDTH, top_k=K)
    train_sae(
        trained,
        batches,
        lambda x, x_hat, *_: (x - x_hat).square().mean(),
        torch.optim.Adam(trained.parameters(), lr=LR),
        nb_epochs=1,  # it would begin again for each; `shuffled` brings its own
    )
    return TopKSAE(acts.d, nb_concepts=WIDTH, top_k=K), trained, lambda coder: coder.encode(held)[1]


torch.manual_seed(0)
untrained, trained, encode = {
    "dictionary_learning": dictionary_learning,
    "saelens": saelens,
    "overcomplete": overcomplete,
}[system]()
answers = {"left": len(list(batches))}
for name, coder in (("before", untrained), ("after", trained)):
    with torch.no_grad():
        codes = encode(coder)
        answers[name] = float((held - coder.decode(codes)).square().sum() / (held - held.mean(0)).square().sum())
save_file({"held": held, "codes": codes.contiguous()}, out / "found.safetensors")
(out / "answers.json").write_text(json.dumps(answers))
