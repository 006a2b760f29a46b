"""Llamascopium: `generate_activations` writes safetensors, `ActivationFactory` reads them through a buffer."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from datasets import Dataset
from llamascopium.activation.factory import (
    ActivationFactory,
    ActivationFactoryActivationsSource,
    ActivationFactoryConfig,
    ActivationFactoryTarget,
)
from llamascopium.backend.language_model import LanguageModelConfig
from llamascopium.config import DatasetConfig
from llamascopium.runners.generate import GenerateActivationsSettings, generate_activations

from benchmarks.peers.material import BATCH, BLOCK, BUFFER, SEQUENCES, Material
from benchmarks.peers.worker import serve

_HOOK = f"blocks.{BLOCK}.hook_resid_post"
torch.set_num_threads(2)


def harvest(material: Material, store: Path) -> None:
    """Through TransformerLens, which reads a local GPT-2; sequences of rows (its 2-D form, without a shuffle)."""
    with tempfile.TemporaryDirectory() as corpus:
        Dataset.from_dict({"text": material.texts()}).save_to_disk(corpus)
        generate_activations(_settings(material, store, corpus))


def _settings(material: Material, store: Path, corpus: str) -> GenerateActivationsSettings:
    model = LanguageModelConfig(
        model_name=str(material.model), backend="transformer_lens", prepend_bos=False, local_files_only=True
    )
    return GenerateActivationsSettings(
        model=model,
        model_name="model",
        dataset=DatasetConfig(dataset_name_or_path=corpus, is_dataset_on_disk=True),
        dataset_name="corpus",
        hook_points=[_HOOK],
        output_dir=str(store),
        target=ActivationFactoryTarget.ACTIVATIONS_2D,
        model_batch_size=SEQUENCES,
        batch_size=SEQUENCES,
        context_size=material.context,
        device_type="cpu",
    )


def batches(material: Material, store: Path, epochs: int) -> Iterator[torch.Tensor]:
    """`ActivationFactory(...).process()`, an epoch each."""
    source = ActivationFactoryActivationsSource(
        name="cache", path=str(store), device="cpu", num_workers=0, prefetch=None
    )  # without worker processes, which were slower here
    config = ActivationFactoryConfig(
        sources=[source],
        target=ActivationFactoryTarget.ACTIVATIONS_1D,
        hook_points=[_HOOK],
        batch_size=BATCH,
        buffer_size=BUFFER,
    )
    for _ in range(epochs):
        for found in ActivationFactory(config).process():
            yield found[_HOOK]


if __name__ == "__main__":
    serve(batches, harvest)
