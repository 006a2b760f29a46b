"""Steering: vectors added to a live model's states, its own and those carried over from another model.

After "Shared Global and Local Geometry of Language Model Embeddings" (Lee et al. 2025), section on Emb2Emb; native
vectors are added as in contrastive activation addition (Rimsky et al. 2023).
"""

from collections.abc import Sequence

from jobs.contrast.vectors import load
from jobs.core.context import Context, Read, Report
from jobs.steering import figures
from jobs.steering.arms import arms
from jobs.steering.cached import stored
from jobs.steering.config import Config
from jobs.steering.measure import UNEMBED, Bench
from jobs.steering.prompts import answers, prompts
from jobs.steering.report import report
from jobs.steering.sweep import Line, from_cache, sweep, table
from storage.errors import InputError

__all__ = ["Config", "artifacts", "models", "reads", "run"]


def reads(config: Config) -> tuple[Read, ...]:
    """The texts and the vocabulary of the one model."""
    ends = () if config.last is None else (UNEMBED,)
    sites = (config.site,) if config.last is None else tuple(dict.fromkeys((config.site, config.last, UNEMBED)))
    return (Read(cache=config.cache, sites=sites), Read(cache=config.vocabulary, sites=ends))


def models(config: Config) -> tuple[str, ...]:
    """The model that read the texts."""
    return (config.cache,)


def artifacts(config: Config) -> tuple[str, ...]:
    """Vectors of this model, of the other one and of other behaviours, and the maps."""
    carried = () if config.transfer is None else (config.transfer.vectors, config.transfer.map)
    return tuple(dict.fromkeys((config.vectors, *carried, *config.others)))


def run(config: Config, ctx: Context) -> Report:
    """Check every vector, prompt and answer, then load the model and sweep over the strengths."""
    cache, vocabulary = ctx.cache(config.cache), ctx.cache(config.vocabulary)
    native = load(ctx.artifact(config.vectors))
    if native.cache not in ("", cache.folder.name):
        raise InputError(
            f"the vectors of {config.vectors} were fitted on cache {native.cache}, prompts come from "
            f"{cache.folder.name}: which of its documents were held out cannot be told; name the cache that they were "
            "fitted on"
        )
    found = arms(config, ctx, cache.site(config.site).d)
    asked = prompts(config, cache, native)
    spoken = answers(config, cache, vocabulary, native)
    kept = None if config.last is None else stored(config, config.last, cache, vocabulary, asked, ctx.device)
    bench = Bench(config, ctx.model(config.cache), asked, spoken)
    lines = sweep(config, bench, found)
    if kept is not None:
        lines += from_cache(config, kept, spoken, found)
    _leave(ctx, lines)
    return report(config, native, asked, spoken, found, lines)


def _leave(ctx: Context, lines: Sequence[Line]) -> None:
    ctx.table("sweep", table(lines))
    ctx.figure(
        "sweep",
        figures.sweep(lines),
        "Log-odds of the answers, fluency of the text that follows and effect on all other tokens, by strength; grey "
        "is the range of random vectors of the same norm, dashed what other controls do.",
    )
    ctx.figure(
        "arms",
        figures.shares(lines),
        "How far each vector moves the log-odds at strength 1, as a share of what the model's own vector does; grey "
        "are the controls.",
    )
