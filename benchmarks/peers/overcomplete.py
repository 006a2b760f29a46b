"""overcomplete: `AsyncTensorDataset` reads whole `.pt` files, which are the user's to write."""

import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import MagicMock

import torch

from benchmarks.peers.material import BATCH, Material
from benchmarks.peers.worker import serve

# both want a torchvision built for the same torch, which has no CPU wheel everywhere; reading tensors needs neither
sys.modules["overcomplete.models"] = sys.modules["overcomplete.visualization"] = MagicMock()
from overcomplete.data import AsyncTensorDataset  # noqa: E402

_FILE_ROWS = 8 * BATCH
"""A whole number of batches, for what is left over at a file's end is dropped."""
torch.set_num_threads(2)


def harvest(material: Material, store: Path) -> None:
    """No harvest: the true rows, as files of tensors."""
    x_ND = material.truth
    for number, at in enumerate(range(0, len(x_ND), _FILE_ROWS)):
        torch.save(torch.from_numpy(x_ND[at : at + _FILE_ROWS].copy()), store / f"{number:05}.pt")


def batches(material: Material, store: Path, epochs: int) -> Iterator[torch.Tensor]:
    """Files in random order, rows in random order within a file."""
    for _ in range(epochs):
        yield from AsyncTensorDataset(str(store), BATCH)


if __name__ == "__main__":
    serve(batches, harvest)
