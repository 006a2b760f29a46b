"""dictionary_learning: `ActivationBuffer` harvests into memory while it is read; nothing is on disk."""

import itertools
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from dictionary_learning.buffer import ActivationBuffer
from nnsight import LanguageModel

from benchmarks.peers.material import BATCH, BLOCK, BUFFER, SEQUENCES, Material
from benchmarks.peers.worker import serve

torch.set_num_threads(2)


def batches(material: Material, store: Path, epochs: int) -> Iterator[torch.Tensor]:
    """`next(buffer)` over texts that begin again: at their end it would drop what it holds."""
    model = _model(material.model)
    yield from ActivationBuffer(
        itertools.cycle(material.texts()),
        model,
        model.transformer.h[BLOCK],
        d_submodule=material.truth.shape[1],
        n_ctxs=BUFFER // material.context,
        ctx_len=material.context,
        refresh_batch_size=SEQUENCES,
        out_batch_size=BATCH,
        device="cpu",
    )


@cache
def _model(folder: Path) -> Any:
    return LanguageModel(str(folder), device_map="cpu", dispatch=True)


if __name__ == "__main__":
    serve(batches)
