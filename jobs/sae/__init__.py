"""Sparse autoencoders: a dictionary of directions of which a few per token rebuild a site's hidden states.

Trained by streaming the rows of training documents; everything reported is measured on documents it never saw,
beside a random dictionary, PCA, random tokens and shuffled labels. With `refit = "continue"` it starts from the weights
of the last artifact and sees the new segments alone; the optimiser's state and the count of silent rows start anew.
"""

import numpy as np
from safetensors.numpy import load as load_arrays

from jobs.core.context import Context, Read, Report
from jobs.core.tensors import as_tensor
from jobs.sae.activations import Relu, TopK
from jobs.sae.coder import Coder, start
from jobs.sae.config import Config
from jobs.sae.dictionaries import Free, UnitNorm
from jobs.sae.losses import AuxK
from jobs.sae.measure import measure
from jobs.sae.report import leave, report
from jobs.sae.rows import Rows, split_rows
from jobs.sae.train import train
from storage.artifact import Artifact
from storage.value import convert

__all__ = ["REFITS", "AuxK", "Coder", "Config", "Free", "Relu", "TopK", "UnitNorm", "load", "reads", "run"]

REFITS = ("all", "newest", "continue")

_PROBE_ROWS = 2048
"""Held-out rows that the course of training is followed on, at most."""


def reads(config: Config) -> tuple[Read, ...]:
    """The one site of the one cache."""
    return (Read(cache=config.cache, sites=(config.site,)),)


def run(config: Config, ctx: Context) -> Report:
    """Train a coder, measure it on held-out documents, keep it and what its features say."""
    rows = split_rows(config, ctx)
    coder = _first(config, ctx, rows).to(ctx.device)
    probe = rows.held_H[np.linspace(0, len(rows.held_H) - 1, min(_PROBE_ROWS, len(rows.held_H))).astype(np.int64)]
    history = train(
        coder,
        config,
        rows.shuffled(config.seed, config.epochs),
        config.epochs * int(rows.training_N.sum()),
        as_tensor(rows.acts[probe], ctx.device),
    )
    found = measure(config, coder, rows)
    ctx.save("weights", coder.arrays())
    leave(config, ctx, rows.tokens, history, found)
    return report(config, rows, found, "" if ctx.previous is None else ctx.previous.folder.name)


def _first(config: Config, ctx: Context, rows: Rows) -> Coder:
    """The coder as training finds it: as the last one left it, or untrained."""
    if ctx.previous is not None:
        return load(ctx.previous)
    return start(rows.acts.moments, config.width, config.activation, config.dictionary, config.seed)


def load(artifact: Artifact) -> Coder:
    """The coder of a finished `sae` artifact; it encodes to the same codes bit for bit."""
    config = convert(artifact.record.config, Config, f"artifact {artifact.folder.name}")
    return Coder(load_arrays(artifact.read("weights.safetensors")), config.activation, config.dictionary)
