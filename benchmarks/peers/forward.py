"""The other ceiling: the forward pass of the same batches as far as the block that is read, nothing kept."""

from pathlib import Path

import torch
from transformers import AutoModel

from benchmarks.peers.material import BLOCK, SEQUENCES, Material
from benchmarks.peers.worker import serve


def harvest(material: Material, store: Path) -> None:
    """Loads and runs the model without its later blocks and its head; writes nothing."""
    torch.set_num_threads(2)
    model = AutoModel.from_pretrained(material.model).eval()
    model.h = model.h[: BLOCK + 1]
    with torch.inference_mode():
        for ids_BT in torch.from_numpy(material.tokens).long().split(SEQUENCES):
            model(ids_BT, use_cache=False)


if __name__ == "__main__":
    serve(None, harvest)
