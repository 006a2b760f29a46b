"""Can one model's hidden states be read off another's? Linear maps and similarities between two caches."""

from jobs.alignment import figures, tables
from jobs.alignment.config import Config
from jobs.alignment.grid import Cell, cells, pass_over
from jobs.alignment.maps import Fitted, map_name
from jobs.alignment.match import match
from jobs.alignment.rows import Rows
from jobs.alignment.study import Study, study
from jobs.alignment.summary import report
from jobs.core.context import Context, Read, Report
from jobs.core.splits import split_documents
from storage.errors import InputError
from storage.site import Site

__all__ = ["Config", "Fitted", "reads", "run"]

FEWEST = 32
"""Matched rows that each part of the split must have."""


def reads(config: Config) -> tuple[Read, ...]:
    """Both caches with the sites asked for."""
    return (
        Read(cache=config.source, sites=config.source_sites),
        Read(cache=config.target, sites=config.target_sites),
    )


def run(config: Config, ctx: Context) -> Report:
    """Matches rows, passes over them once, compares all sites, and studies the pair that says most beyond tokens."""
    source_sites = config.source_sites or ctx.cache(config.source).sites
    target_sites = config.target_sites or ctx.cache(config.target).sites
    rows = _rows(config, ctx, source_sites, target_sites)
    passed = pass_over(rows)
    grid = cells(passed, config.maps)
    chosen = _choose(config, grid, source_sites, target_sites)
    found = study(rows, passed, (chosen.source, chosen.target), config)
    names = (str(source_sites[chosen.source]), str(target_sites[chosen.target]))
    _save(ctx, found)
    ctx.table("grid", tables.grid_table(config, grid, source_sites, target_sites))
    ctx.table("maps", tables.maps_table(config, found, names))
    ctx.table("canonical", tables.canonical_table(found))
    figures.draw(
        ctx,
        grid,
        found,
        tuple(map(str, source_sites)),
        tuple(map(str, target_sites)),
        (config.source, config.target),
        chosen,
    )
    return report(config, rows, chosen, found, names)


def _rows(config: Config, ctx: Context, source_sites: tuple[Site, ...], target_sites: tuple[Site, ...]) -> Rows:
    caches = ctx.cache(config.source), ctx.cache(config.target)
    source, target = (
        tuple(cache.site(site) for site in sites)
        for cache, sites in zip(caches, (source_sites, target_sites), strict=True)
    )
    matched = match(
        caches[0].tokens,
        caches[1].tokens,
        limits=(min(map(len, source)), min(map(len, target))),
        skip=config.skip,
        max_rows=config.max_rows,
        seed=config.seed,
    )
    documents = split_documents(
        matched.document_ids_C, validation=config.validation, test=config.test, seed=config.seed
    )
    split = documents.at(matched.document_M)
    sizes = {"train": split.train.sum(), "validation": split.validation.sum(), "test": split.test.sum()}
    if min(sizes.values()) < FEWEST:
        raise InputError(
            f"{config.source} and {config.target} have {len(matched.source_M):,} matched rows in "
            f"{len(matched.document_ids_C):,} documents, which split into {sizes['train']:,} for training, "
            f"{sizes['validation']:,} for validation and {sizes['test']:,} for test; each needs {FEWEST}: "
            "harvest more documents into both"
        )
    return Rows(source, target, matched, split, ctx.device)


def _choose(config: Config, grid: list[Cell], source_sites: tuple[Site, ...], target_sites: tuple[Site, ...]) -> Cell:
    """The pair of sites to show in depth; a site against itself is no finding."""
    same_cache = config.source == config.target
    pairs = [c for c in grid if not (same_cache and source_sites[c.source] == target_sites[c.target])]
    if not pairs:
        raise InputError(f"{config.source} has one site, {source_sites[0]}, and nothing to align it with: add another")
    return max(pairs, key=lambda cell: cell.validation_lead)


def _save(ctx: Context, found: Study) -> None:
    for mapped in found.maps:
        ctx.save(map_name(mapped.kind), mapped.fitted.arrays())
    ctx.save(
        "cca",
        {
            "source": found.cca.source_SK.float().cpu().numpy(),
            "target": found.cca.target_TK.float().cpu().numpy(),
            "correlations": found.correlations_K,
        },
    )
