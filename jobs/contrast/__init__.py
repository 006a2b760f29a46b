"""Directions that tell two kinds of text apart, found in a cache and ready to be added to a model's states.

The vectors are what the `steering` job injects: mean differences (contrastive activation addition, Rimsky et al. 2023),
principal components of the differences of pairs (Zou et al. 2023), and the directions of logistic probes.
"""

from collections.abc import Iterator, Sequence

from jobs.contrast import figures
from jobs.contrast.config import Config
from jobs.contrast.fit import Found, study_site
from jobs.contrast.sides import Sides, choose
from jobs.contrast.vectors import Vectors, load
from jobs.core.context import Context, Metric, Read, Report
from storage.site import Site

__all__ = ["Config", "Vectors", "load", "reads", "run"]


def reads(config: Config) -> tuple[Read, ...]:
    """The one cache, and the sites to look at."""
    return (Read(cache=config.cache, sites=config.sites),)


def run(config: Config, ctx: Context) -> Report:
    """Fit every method at every site, one site after the other, and judge it on documents that it did not see."""
    cache = ctx.cache(config.cache)
    sites = sorted(set(config.sites or cache.sites))
    n_rows = min(cache.site(site).shape[0] for site in sites)
    sides = choose(config, cache.tokens, n_rows)
    found = [one for site in sites for one in study_site(config, cache.site(site), sides, ctx.device)]
    _leave(ctx, found)
    return _report(config, sides, found)


def _leave(ctx: Context, found: Sequence[Found]) -> None:
    import pyarrow as pa

    ctx.save("vectors", {f"{one.site}/{one.method}": one.vector_D for one in found})
    ctx.table("vectors", pa.Table.from_pylist([one.line for one in found]))
    ctx.figure(
        "sites",
        figures.over_sites(found),
        "How well each direction tells held-out documents of the two sides apart, site by site; grey is the same with "
        "sides exchanged at random.",
    )


def _report(config: Config, sides: Sides, found: Sequence[Found]) -> Report:
    best = max(found, key=lambda one: one.validation)
    method = best.method.replace("_", " ")
    headline = (
        f"{config.label}, {sides.positive} against {sides.negative}: at {best.site} the {method} tells held-out "
        f"documents apart with AUROC {best.auroc:.2f} (sides exchanged: {best.null:.2f})"
    )
    rest = sorted((one for one in found if one is not best), key=lambda one: _place(one.site, one.method))
    metrics = [metric for one in (best, *rest) for metric in _metrics(one)]
    return Report(headline=headline, metrics=tuple(metrics), notes=(*sides.notes, *_same(found)))


def _place(site: Site, method: str) -> tuple[Site, str]:
    return site, method


def _same(found: Sequence[Found]) -> Iterator[str]:
    """Sites that tell nothing."""
    if same := dict.fromkeys(str(one.site) for one in found if not one.relative_norm):
        yield f"Both sides have the same states at {', '.join(same)}: there, vectors are zero."


def _metrics(one: Found) -> tuple[Metric, ...]:
    return (
        Metric(
            name=f"{one.site} {one.method} AUROC",
            value=one.auroc,
            null=one.null,
            about="of held-out documents' projections; null: sides exchanged at random, in the fit and in what it is "
            "judged by",
        ),
        Metric(
            name=f"{one.site} {one.method} norm",
            value=one.relative_norm,
            about="of the vector, over the mean norm of the states; all methods' vectors have the mean difference's",
        ),
    )
