"""Sparse autoencoders: a dictionary of directions of which a few per token rebuild a site's hidden states.

Trained by streaming the rows of training documents; everything reported is measured on documents it never saw,
beside a random dictionary, PCA, random tokens and shuffled labels. With `refit = "continue"` it starts from the weights
of the last artifact and sees the new segments alone; the optimiser's state and the count of silent rows start anew.
"""

from pathlib import Path

from jobs.core.context import Context, Report
from jobs.sae import foreign
from jobs.sae.activations import BatchTopK, PAnneal, Relu, TopK
from jobs.sae.coder import Coder
from jobs.sae.config import Config, Source
from jobs.sae.dictionaries import Archetypal, Free, UnitNorm
from jobs.sae.gated import Gated
from jobs.sae.jump import JumpRelu
from jobs.sae.losses import AuxK
from jobs.sae.pursuit import MatchingPursuit, OrthogonalPursuit
from jobs.sae.rows import reads, sources
from jobs.sae.study import load, run_all
from storage.value import canonical

__all__ = [
    "REFITS",
    "Archetypal",
    "AuxK",
    "BatchTopK",
    "Coder",
    "Config",
    "Free",
    "Gated",
    "JumpRelu",
    "MatchingPursuit",
    "OrthogonalPursuit",
    "PAnneal",
    "Relu",
    "Source",
    "TopK",
    "UnitNorm",
    "files",
    "load",
    "models",
    "reads",
    "run",
    "run_all",
    "together",
]

REFITS = ("all", "newest", "continue")


def run(config: Config, ctx: Context) -> Report:
    """Train a coder, measure it on held-out documents, keep it and what its features say."""
    return run_all([config], [ctx])[0]


def models(config: Config) -> tuple[str, ...]:
    """The cache whose model is run, where the loss is asked of it."""
    return (config.cache,) if config.loss == "model" else ()


def files(config: Config) -> tuple[Path, ...]:
    """The coder of another system that is measured, if any."""
    return foreign.files(Path(config.foreign)) if config.foreign else ()


def together(config: Config) -> bytes:
    """Studies that give the same answer are fed by one read: same rows, same split, same batches in the same order."""
    return canonical([sources(config), config.batch, config.epochs, config.held_out, config.seed])
