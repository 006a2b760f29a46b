"""Linear maps from one model's space to another's, fitted on the vectors of the tokens that both know.

After Emb2Emb of "Shared Global and Local Geometry of Language Model Embeddings" (Lee et al. 2025): with such a map a
steering vector that was found in one model can be put into another.
"""

import numpy as np
import torch
from torch import Tensor

from jobs.alignment.maps import Fitted
from jobs.core.context import Context, Read, Report
from jobs.core.splits import Split, split_documents
from jobs.core.tensors import as_tensor
from jobs.core.vocabulary import Shared, rows_of, shared_vocabulary
from jobs.emb2emb import figures
from jobs.emb2emb.config import Config, Norm
from jobs.emb2emb.hidden import States, states
from jobs.emb2emb.maps import LowRank
from jobs.emb2emb.report import maps_table, report, singular_table
from jobs.emb2emb.study import Judge, Mapped, Tables, study
from jobs.sae import final_norm
from storage.artifact import Artifact
from storage.errors import InputError
from storage.site import Site

__all__ = ["Config", "load", "reads", "run"]

PERMUTED = "permuted"
"""The least-squares map that was fitted to permuted rows, as `load` calls it."""
_KIND = "emb2emb"
_UNEMBED = Site("unembed")


def reads(config: Config) -> tuple[Read, ...]:
    """Both vocabularies, the texts of a map of hidden states, and those that show the norms to fold."""
    wanted: dict[str, set[Site]] = {}
    for cache, *sites in _wanted(config):
        wanted.setdefault(cache, set()).update(sites)
    return tuple(Read(cache=cache, sites=tuple(sorted(sites, key=str))) for cache, sites in wanted.items())


def _wanted(config: Config) -> list[tuple[str, *tuple[Site, ...]]]:
    wanted: list[tuple[str, *tuple[Site, ...]]] = [(config.source, config.site), (config.target, config.site)]
    if (hidden := config.hidden) is not None:
        wanted += [(hidden.source, hidden.source_site), (hidden.target, hidden.target_site)]
    if config.fold is not None:
        wanted += [(norm.cache, norm.site, _UNEMBED) for norm in (config.fold.source, config.fold.target)]
    return wanted


def run(config: Config, ctx: Context) -> Report:
    """Choose the tokens, fit every map, judge it on held-out tokens, and leave the matrices."""
    caches = ctx.cache(config.source), ctx.cache(config.target)
    shared = shared_vocabulary(*caches, config.n_tokens, config.seed, config.least)
    tables = _tables(shared, config, ctx)
    _check_ranks(config, tables)
    judged = Judge(tables, config)
    found, permuted = study(tables, config, judged)
    hidden = None if config.hidden is None else states(config.hidden, config, ctx)
    if hidden is not None:
        fitted, null = hidden.of_vectors
        found.append(Mapped("hidden", fitted, judged(fitted), judged(null)))
    _leave(ctx, found, permuted, hidden)
    return report(config, shared, tables, found, hidden, judged)


def load(artifact: Artifact, name: str) -> Fitted:
    """A map that an `emb2emb` job left: one of its kinds, or `permuted`; a vector v goes to `v @ M_ST`."""
    if artifact.record.kind != _KIND:
        raise InputError(f"artifact {artifact.record.id} is of kind {artifact.record.kind}: name an {_KIND} job")
    kept = [
        file.name.removesuffix(".safetensors") for file in artifact.record.files if file.name.endswith(".safetensors")
    ]
    if name not in kept:
        raise InputError(f"artifact {artifact.record.id} holds no map {name!r}; it holds {', '.join(kept)}")
    return Fitted.load(artifact.read(f"{name}.safetensors"))


def _tables(shared: Shared, config: Config, ctx: Context) -> Tables:
    norms = (None, None) if config.fold is None else (config.fold.source, config.fold.target)
    x_NS, y_NT = (
        _table(name, ids_N, norm, config, ctx)
        for name, ids_N, norm in zip(
            (config.source, config.target), (shared.first_N, shared.second_N), norms, strict=True
        )
    )
    return Tables(x_NS, y_NT, _split(shared, config))


def _split(shared: Shared, config: Config) -> Split:
    names = np.array([spelt.hex() for spelt in shared.spelt], object)
    return split_documents(names, validation=config.validation, test=config.held_out, seed=config.seed)


def _table(name: str, ids_N: np.ndarray, norm: Norm | None, config: Config, ctx: Context) -> Tensor:
    """The rows of those tokens, float32 [N, D]."""
    cache = ctx.cache(name)
    x_ND = as_tensor(cache.site(config.site)[rows_of(cache.tokens, ids_N)], ctx.device)
    if norm is not None:
        x_ND = x_ND * _gain(norm, x_ND.shape[1], name, ctx)
    if not bool(torch.isfinite(x_ND).all()):
        raise InputError(
            f"{name} {config.site} has rows that are not finite: maps want a table without NaN or infinity"
        )
    return x_ND


def _gain(norm: Norm, width: int, name: str, ctx: Context) -> Tensor:
    """The final norm's gain, [D]."""
    cache = ctx.cache(norm.cache)
    found = final_norm.fit(cache.site(norm.site), cache.site(_UNEMBED), ctx.device)
    if len(found.gain_D) != width:
        raise InputError(
            f"the norm of {norm.cache} has width {len(found.gain_D)}, the table of {name} {width}: name a cache of the "
            "same model"
        )
    return found.gain_D


def _check_ranks(config: Config, tables: Tables) -> None:
    widest = min(tables.x_NS.shape[1], tables.y_NT.shape[1])
    for kind in config.of_tables:
        if isinstance(kind, LowRank) and min(kind.ranks) > widest:
            raise InputError(
                f"low-rank ranks = {list(kind.ranks)} are all above {widest}, the smaller width of {config.source} "
                f"({tables.x_NS.shape[1]}) and {config.target} ({tables.y_NT.shape[1]}): lower one"
            )


def _leave(ctx: Context, found: list[Mapped], permuted: Fitted, hidden: States | None) -> None:
    for mapped in found:
        of_states = hidden is not None and mapped.name == "hidden"
        ctx.save(mapped.name, (hidden.fitted if of_states and hidden else mapped.fitted).arrays())
    ctx.save(PERMUTED, permuted.arrays())
    ctx.table("maps", maps_table(found))
    ctx.table("singular", singular_table(found))
    ctx.figure(
        "maps",
        figures.maps(found),
        "What each map explains of held-out tokens' vectors, and how many find their own; grey is the same kind of map "
        "fitted to permuted rows.",
    )
    ctx.figure(
        "singular",
        figures.singular(found),
        "Singular values of the maps: a rotation's are all one, least squares shrinks what it cannot predict.",
    )
