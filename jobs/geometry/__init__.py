"""The shape of hidden states: who is near whom, in how many dimensions, and whether two models agree.

After "Shared Global and Local Geometry of Language Model Embeddings" (Lee et al. 2025). One cache gives neighbours,
LLE weights and intrinsic dimension; a second one over the same corpus gives the agreement of the two at every scale.
"""

import numpy as np
import torch

from jobs.core.context import Context, Read, Report
from jobs.geometry import figures
from jobs.geometry.agreement import Agreement, compare
from jobs.geometry.config import Config, Side
from jobs.geometry.points import Chosen, Source, choose, states
from jobs.geometry.report import write
from jobs.geometry.space import Space, measure
from jobs.geometry.tables import agreement_table, extremes_table, space_table
from storage.errors import InputError

__all__ = ["Config", "reads", "run"]


def reads(config: Config) -> tuple[Read, ...]:
    """The caches and sites this job needs."""
    return tuple(Read(cache=side.cache, sites=(side.site,)) for side in config.sides)


def run(config: Config, ctx: Context) -> Report:
    """Measure each cache's points, compare two if there are two, and leave tables and figures."""
    sources = [_open(side, config.skip, ctx) for side in config.sides]
    chosen = choose(config.points, sources, config.n_points, config.seed)
    _check_enough(config, chosen, sources)
    _check_widths(config, sources)
    queries_Q = _queries(len(chosen.keys), config, ctx.device)
    spaces = []
    for source, members_N in zip(sources, chosen.members, strict=True):
        x_ND = states(config.points, source, members_N, ctx.device)
        spaces.append(measure(source.name, x_ND, config.local, queries_Q, config.seed))
    agreement = None
    if len(spaces) == 2:
        agreement = compare(spaces[0], spaces[1], config.reg, config.permutations, config.bootstraps, config.seed)
    _leave_tables(ctx, chosen, spaces, agreement)
    _leave_figures(ctx, chosen, spaces, agreement)
    return write(config, chosen, spaces, agreement)


def _open(side: Side, skip: int, ctx: Context) -> Source:
    cache = ctx.cache(side.cache)
    tokenizer = cache.record.identity.tokenizer
    return Source(f"{side.cache} {side.site}", cache.site(side.site), cache.tokens, skip, tokenizer)


def _queries(n: int, config: Config, device: str) -> torch.Tensor:
    """The points at which the dimension is measured."""
    drawn = np.random.default_rng(config.seed).permutation(n)[: config.dimension.points]
    return torch.from_numpy(np.sort(drawn)).to(device)


def _check_enough(config: Config, chosen: Chosen, sources: list[Source]) -> None:
    n, wanted = len(chosen.keys), max(config.k, config.dimension.k, *config.local.ks)
    if n > wanted:
        return
    if not any(len(rows_R) for rows_R in sources[0].blocks()):
        raise InputError(
            f"all rows of {sources[0].name} lie at sequence positions below skip = {config.skip}: set skip = 0"
        )
    name = {config.k: "k", config.dimension.k: "dimension.k"}.get(wanted, "ks")
    where = " and ".join(f"{found:,} in {source.name}" for found, source in zip(chosen.found, sources, strict=True))
    shared = f", of which {chosen.shared:,} are in both" if len(sources) == 2 else ""
    more = "raise n_points" if n == config.n_points else "harvest more text"
    raise InputError(
        f"{name} = {wanted} neighbours want more than {wanted:,} points; found {n:,} ({where}{shared}; "
        f"n_points = {config.n_points:,}): {more}, lower {name}, or take other points"
    )


def _check_widths(config: Config, sources: list[Source]) -> None:
    for source in sources:
        if config.dimension.k <= source.activations.d and not config.dimension.allow_saturated:
            raise InputError(
                f"dimension.k = {config.dimension.k} is not above {source.activations.d}, the width of {source.name}: "
                f"no dimension above {config.dimension.k - 1} could be found, so the number would say what k is. Raise "
                "dimension.k above the width, or set dimension.allow_saturated = true"
            )


def _leave_tables(ctx: Context, chosen: Chosen, spaces: list[Space], agreement: Agreement | None) -> None:
    for label, space, members_N in zip(("first", "second"), spaces, chosen.members, strict=False):
        ctx.table(label, space_table(space, chosen, members_N))
    ctx.table("extremes", extremes_table(spaces, chosen))
    if agreement is not None:
        ctx.table("agreement", agreement_table(agreement, chosen, spaces))


def _leave_figures(ctx: Context, chosen: Chosen, spaces: list[Space], agreement: Agreement | None) -> None:
    names = [space.name for space in spaces]
    if agreement is not None:
        ctx.figure(
            "similarity",
            figures.similarity_figure(agreement, names),
            "Each cell counts pairs of points by their cosine in the two spaces; right, the correlation over all pairs "
            "with its interval, and in grey what permuted points give.",
        )
        ctx.figure(
            "local",
            figures.local_figure(agreement),
            "How far the two spaces agree on each point's neighbours and on the weights that rebuild it from them; "
            "grey is the same with the second space's points permuted.",
        )
    r = None if agreement is None else agreement.dimension_r[0]
    ctx.figure(
        "dimension",
        figures.dimension_figure(spaces, None if r is None or np.isnan(r) else r),
        "Principal components that explain the chosen share of variance of a point's neighbourhood; grey is a Gaussian "
        "of the same mean and covariance, dotted the largest value that could have been found.",
    )
    ctx.figure(
        "points",
        figures.points_figure(spaces[0], chosen.strings),
        "The points whose neighbourhoods have the lowest and the highest dimension, each with its nearest neighbours.",
    )
