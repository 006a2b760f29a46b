"""Does the agreement of two models' embeddings persist through their layers? Every site of one against every site of
the other, on the mean hidden state of each token.

After section "hidden states" of "Shared Global and Local Geometry of Language Model Embeddings" (Lee et al. 2025): its
first versions claim that it does, its last one does not repeat the claim.
"""

from collections.abc import Sequence

from torch import Tensor

from jobs.core.context import Context, Read, Report
from jobs.geometry.points import Source, TokenMeans, choose, states
from jobs.persistence import figures
from jobs.persistence.cells import Cell, from_table, table
from jobs.persistence.config import Config
from jobs.persistence.controls import Controlled, controlled
from jobs.persistence.measures import cells
from jobs.persistence.report import report
from storage.errors import InputError
from storage.site import Site

__all__ = ["Config", "artifacts", "reads", "run"]


def reads(config: Config) -> tuple[Read, ...]:
    """Both caches."""
    return (
        Read(cache=config.source, sites=config.source_sites),
        Read(cache=config.target, sites=config.target_sites),
    )


def artifacts(config: Config) -> tuple[str, ...]:
    """The parts that a map is put together from."""
    return config.parts


def run(config: Config, ctx: Context) -> Report:
    """Measure every pair of sites, or put together what other jobs measured."""
    found, notes = _joined(config, ctx) if config.parts else _measured(config, ctx)
    ctx.table("map", table(found))
    ctx.figure(
        "map",
        figures.maps(found),
        "Agreement of every pair of sites by four measures: as states are, about their mean, and without their widest "
        "components. Permuted tokens give "
        f"{min(cell.null for cell in found):.2f} to {max(cell.null for cell in found):.2f}.",
    )
    return report(config, found, notes)


def _measured(config: Config, ctx: Context) -> tuple[list[Cell], tuple[str, ...]]:
    sides = [_sources(ctx, *side, config) for side in config.sides]
    points = TokenMeans(min_count=config.min_count)
    chosen = choose(points, [side[0] for side in sides], config.n_points, config.seed)
    if len(chosen.keys) <= config.k + 1:
        raise InputError(
            f"k = {config.k} neighbours want more than {config.k + 1} tokens that both caches have {config.min_count} "
            f"times; found {len(chosen.keys)} ({chosen.found[0]:,} in {config.source}, {chosen.found[1]:,} in "
            f"{config.target}): lower k or min_count, or harvest more text"
        )
    spaces = [
        [_space(source, states(points, source, members_N, ctx.device), config) for source in side]
        for side, members_N in zip(sides, chosen.members, strict=True)
    ]
    note = (
        f"{len(chosen.keys):,} tokens of {chosen.shared:,} that both caches have at least {config.min_count} times; "
        f"sha256 of the list {chosen.sha256[:12]}."
    )
    return cells(spaces[0], spaces[1], chosen.keys, config), (note,)


def _space(source: Source, x_ND: Tensor, config: Config) -> Controlled:
    return controlled(source.activations.site, x_ND, config)


def _sources(ctx: Context, name: str, sites: Sequence[Site], config: Config) -> list[Source]:
    cache = ctx.cache(name)
    tokenizer = cache.record.identity.tokenizer
    asked = sorted(sites or [site for site in cache.sites if site.kind not in ("mass", "logits")])
    return [Source(f"{name} {site}", cache.site(site), cache.tokens, config.skip, tokenizer) for site in asked]


def _joined(config: Config, ctx: Context) -> tuple[list[Cell], tuple[str, ...]]:
    found = [cell for name in config.parts for cell in from_table(ctx.artifact(name))]
    places = [cell.place for cell in found]
    if len(set(places)) < len(places):
        raise InputError(f"parts {', '.join(config.parts)} measured a pair of sites twice: give each sites of its own")
    return sorted(found, key=lambda cell: cell.place), (f"Put together from {', '.join(config.parts)}.",)
