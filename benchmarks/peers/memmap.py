"""The ceiling: one raw file, and a gather of random rows from its memory map."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.peers.material import BATCH, Material
from benchmarks.peers.worker import serve


def harvest(material: Material, store: Path) -> None:
    """No harvest: the true rows, copied."""
    shutil.copy(material.folder / "truth.npy", store / "rows.npy")


def batches(material: Material, store: Path, epochs: int) -> Iterator[np.ndarray]:
    """`memmap[permutation]`, a batch at a time."""
    x_ND = np.load(store / "rows.npy", mmap_mode="r")
    for epoch in range(epochs):
        order_N = np.random.default_rng(epoch).permutation(len(x_ND))
        for at in range(0, len(x_ND), BATCH):
            yield x_ND[order_N[at : at + BATCH]]


if __name__ == "__main__":
    serve(batches, harvest)
