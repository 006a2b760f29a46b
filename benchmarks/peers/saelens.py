"""SAELens: `CacheActivationsRunner` writes Arrow, `ActivationsStore` reads it through a mixing buffer."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from sae_lens import CacheActivationsRunner, CacheActivationsRunnerConfig
from sae_lens.load_model import load_model
from sae_lens.training.activations_store import ActivationsStore

from benchmarks.peers.material import BATCH, BLOCK, BUFFER, SEQUENCES, Material
from benchmarks.peers.worker import serve

_HOOK = f"transformer.h.{BLOCK}"
torch.set_num_threads(2)


def harvest(material: Material, store: Path) -> None:
    """From ready token ids; buffers divide the tokens, for the runner writes whole buffers and would begin again."""
    rows, d = material.truth.shape
    config = CacheActivationsRunnerConfig(
        dataset_path="",
        model_name=str(material.model),
        model_class_name="AutoModelForCausalLM",
        model_batch_size=SEQUENCES,
        hook_name=_HOOK,
        d_in=d,
        training_tokens=rows,
        context_size=material.context,
        new_cached_activations_path=str(store),
        buffer_size_gb=min(BUFFER, rows) * d * 4 / 1e9,
        device="cpu",
        shuffle=False,  # would shuffle an index in memory that is not saved
    )
    CacheActivationsRunner(config, Dataset.from_dict({"input_ids": material.tokens})).run()


def batches(material: Material, store: Path, epochs: int) -> Iterator[torch.Tensor]:
    """`next_batch()`; it begins again by itself."""
    rows_of_context = BUFFER // material.context  # the buffer holds this many contexts, whatever a batch is
    activations = ActivationsStore(
        model=_model(material.model),
        dataset=None,
        streaming=False,
        hook_name=_HOOK,
        hook_head_index=None,
        context_size=material.context,
        d_in=material.truth.shape[1],
        n_batches_in_buffer=rows_of_context,
        total_training_tokens=len(material.truth),
        store_batch_size_prompts=SEQUENCES,
        train_batch_size_tokens=BATCH,
        prepend_bos=False,
        normalize_activations="none",
        device=torch.device("cpu"),
        dtype="float32",
        cached_activations_path=str(store),
    )
    while True:
        yield activations.next_batch()


@cache
def _model(folder: Path) -> Any:
    """Reading asks for the model; it is loaded once, and not counted."""
    return load_model("AutoModelForCausalLM", str(folder), "cpu")


if __name__ == "__main__":
    serve(batches, harvest)
