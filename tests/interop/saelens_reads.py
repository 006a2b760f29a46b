"""Run by SAELens's own interpreter: what each of its folders makes of rows. `saelens_reads.py ROWS OUT FOLDER...`"""

import json
import sys
from pathlib import Path

from sae_lens import SAE
from safetensors.torch import load_file, save_file

rows_path, out, *folders = sys.argv[1:]
x = load_file(rows_path)["rows"]
found, metadata = {}, {}
for folder in map(Path, folders):
    sae = SAE.load_from_disk(folder)
    found[f"{folder.name}.codes"] = sae.encode(x).detach().contiguous()
    found[f"{folder.name}.rebuilt"] = sae(x).detach().contiguous()
    metadata[folder.name] = {"hook_name": str(sae.cfg.metadata.hook_name)}
save_file(found, out, {"about": json.dumps(metadata)})
