"""Classical dictionary learning: PCA, ICA, k-means, matrix factorisation, archetypes and a random dictionary.

What an `sae` is to be compared with. Fitted to rows drawn from the training documents, held in memory; measured by the
code of `sae` on documents that no fit saw, under the same names and beside the same nulls.
"""

from jobs.core.context import Context, Read, Report
from jobs.factors.coder import Factors, load
from jobs.factors.config import Config
from jobs.factors.fitted import Fitted
from jobs.factors.library import Ica, KMeans, Nmf, Pca
from jobs.factors.methods import Archetypes, ConvexNmf, Random, SemiNmf
from jobs.factors.study import study

__all__ = [
    "Archetypes",
    "Config",
    "ConvexNmf",
    "Factors",
    "Fitted",
    "Ica",
    "KMeans",
    "Nmf",
    "Pca",
    "Random",
    "SemiNmf",
    "load",
    "reads",
    "run",
]


def reads(config: Config) -> tuple[Read, ...]:
    """One site of one cache."""
    return (Read(cache=config.cache, sites=(config.site,)),)


def run(config: Config, ctx: Context) -> Report:
    """Fit a dictionary to rows of training documents, measure it on held-out ones, keep both."""
    return study(config, ctx)
