"""Run by SAELens's own interpreter: what each of its folders makes of rows. `saelens_reads.py ROWS OUT FOLDER...`"""

import sys

from sae_lens import SAE
from safetensors.torch import load_file, save_file

rows_path, out, *folders = sys.argv[1:]
x = load_file(rows_path)["rows"]
found = {}
for folder in folders:
    sae = SAE.load_from_disk(folder)
    codes = sae.encode(x)
    name = folder.rsplit("/", 1)[-1]
    found[f"{name}.codes"], found[f"{name}.rebuilt"] = codes.detach(), sae.decode(codes).detach()
save_file({name: tensor.contiguous() for name, tensor in found.items()}, out)
