"""Run by SAELens's own interpreter: a folder of each kind it trains, with what it makes of rows. `... ROWS OUT`"""

import sys
from pathlib import Path

import sae_lens
import torch
from safetensors.torch import load_file, save_file

x, out = load_file(sys.argv[1])["rows"], Path(sys.argv[2])
KINDS = {
    "Standard": {},
    "TopK": {"k": 3, "rescale_acts_by_decoder_norm": True},
    "BatchTopK": {"k": 3},
    "MatryoshkaBatchTopK": {"k": 3, "matryoshka_widths": [8, 24]},
    "JumpReLU": {"jumprelu_init_threshold": 0.5},
    "Gated": {},
}
torch.manual_seed(0)
found = {}
for name, settings in KINDS.items():
    for dtype in ("float32", "bfloat16"):
        configured = getattr(sae_lens, f"{name}TrainingSAEConfig")(d_in=x.shape[1], d_sae=24, dtype=dtype, **settings)
        coder = getattr(sae_lens, f"{name}TrainingSAE")(configured)
        with torch.no_grad():
            for parameter in coder.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
            if "BatchTopK" in name:
                coder.topk_threshold.fill_(0.4)
        folder = out / f"{name}.{dtype}"
        folder.mkdir(parents=True)
        coder.save_inference_model(folder)
        read = sae_lens.SAE.load_from_disk(folder, dtype="float32")
        codes = read.encode(x)
        found[f"{folder.name}.codes"] = codes.detach().contiguous()
        found[f"{folder.name}.rebuilt"] = read.decode(codes).detach().contiguous()
save_file(found, out / "found.safetensors")
