"""Run by dictionary_learning's own interpreter: a folder of each class with what it makes of rows. `... ROWS OUT`"""

import json
import sys
from pathlib import Path

import torch
from dictionary_learning.dictionary import AutoEncoder, GatedAutoEncoder, JumpReluAutoEncoder
from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
from dictionary_learning.trainers.top_k import AutoEncoderTopK
from safetensors.torch import load_file, save_file

x, out = load_file(sys.argv[1])["rows"], Path(sys.argv[2])
d, width = x.shape[1], 24
torch.manual_seed(0)
made = {
    "AutoEncoder": AutoEncoder(d, width),
    "GatedAutoEncoder": GatedAutoEncoder(d, width),
    "JumpReluAutoEncoder": JumpReluAutoEncoder(d, width),
    "AutoEncoderTopK": AutoEncoderTopK(d, width, 3),
    "BatchTopKSAE": BatchTopKSAE(d, width, 3),
    "MatryoshkaBatchTopKSAE": MatryoshkaBatchTopKSAE(d, width, 3, [8, 16]),
}
found = {}
for name, coder in made.items():
    with torch.no_grad():
        for parameter in coder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        if "threshold" in dict(coder.named_parameters()):
            coder.threshold.abs_()
        elif "BatchTopK" in name:
            coder.threshold.fill_(0.4)
        codes = coder.encode(x)
        found[f"{name}.codes"], found[f"{name}.rebuilt"] = codes, coder.decode(codes)
    (out / name).mkdir(parents=True)
    torch.save(coder.state_dict(), out / name / "ae.pt")
    (out / name / "config.json").write_text(json.dumps({"trainer": {"dict_class": name}}))
save_file({name: tensor.contiguous() for name, tensor in found.items()}, out / "found.safetensors")
