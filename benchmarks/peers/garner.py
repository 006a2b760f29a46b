"""garner: `garner run` of a recipe fills a lake, `shuffled` reads it."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.peers.material import BATCH, BLOCK, SEQUENCES, Material
from benchmarks.peers.worker import serve
from storage import Lake

_RECIPE = """
lake = "{lake}"
[models.small]
name = "{model}"
[corpora.words]
files = "{corpus}"
[caches.words]
model = "small"
corpus = "words"
sites = ["resid.{block}"]
context = {context}
dtype = "float32"
[pool]
kind = "local"
batch_tokens = {batch_tokens}
"""


def harvest(material: Material, store: Path) -> None:
    """From text to a sealed cache: tokens, rows, checksums and moments, each object synced."""
    from pipeline.__main__ import main  # reading needs nothing of it, and should not pay for it

    recipe = store / "recipe.toml"
    text = _RECIPE.format(
        lake=store / "lake",
        model=material.model,
        corpus=material.corpus,
        block=BLOCK,
        context=material.context,
        batch_tokens=SEQUENCES * material.context,
    )
    recipe.write_text(text)
    if main(["run", str(recipe)]):
        raise RuntimeError(f"`garner run {recipe}` failed; its own message is in the log")


def batches(material: Material, store: Path, epochs: int) -> Iterator[np.ndarray]:
    """Every row once an epoch, the checksum of each chunk compared when it is first touched."""
    lake = Lake(str(store / "lake"))
    (name,) = lake.caches()
    yield from lake.cache(name).site(f"resid.{BLOCK}").shuffled(batch=BATCH, epochs=epochs)


if __name__ == "__main__":
    serve(batches, harvest)
