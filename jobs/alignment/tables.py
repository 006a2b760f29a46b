"""The job's tables: the grid of sites, the maps of the chosen pair, its canonical correlations."""

import pyarrow as pa

from jobs.alignment.config import Config
from jobs.alignment.grid import Cell
from jobs.alignment.maps import map_name
from jobs.alignment.study import Found, Study
from storage.site import Site


def grid_table(
    config: Config, grid: list[Cell], source_sites: tuple[Site, ...], target_sites: tuple[Site, ...]
) -> pa.Table:
    """A row for every pair of sites."""
    lines = [
        {
            "source_site": str(source_sites[cell.source]),
            "target_site": str(target_sites[cell.target]),
            **{f"r2_{map_name(kind)}": r2 for kind, r2 in zip(config.maps, cell.r2, strict=True)},
            "r2_token_identity": cell.token_r2,
            "best_map": map_name(config.maps[cell.best]),
            "cka": cell.cka,
            "cka_without_widest": cell.cka_without_widest,
        }
        for cell in grid
    ]
    return pa.Table.from_pylist(lines)


def maps_table(config: Config, found: Study, names: tuple[str, str]) -> pa.Table:
    """A row for every map of the chosen pair, for its null, and for the baseline; `train_r2` is no result."""
    lines = []
    for mapped in found.maps:
        extra = {
            "train_r2": mapped.train_r2,
            "penalty": mapped.fitted.penalty,
            "rank": mapped.rank,
            "effective_rank": mapped.effective_rank,
        }
        lines.append({"map": map_name(mapped.kind), "fitted_to": "rows", **_scores(mapped.held_out), **extra})
        lines.append({"map": map_name(mapped.kind), "fitted_to": "permuted rows", **_scores(mapped.null)})
    lines.append({"map": "token identity", "fitted_to": "rows", **_scores(found.token)})
    return pa.Table.from_pylist([{"source_site": names[0], "target_site": names[1], **line} for line in lines])


def _scores(found: Found) -> dict[str, float]:
    return {
        "r2": found.judged.r2,
        "median_r2": found.judged.median_r2,
        "cosine": found.cosine,
        **{f"retrieval_at_{k}": share for k, share in found.retrieval.items()},
        "norm_ratio": found.judged.norm_ratio,
    }


def canonical_table(found: Study) -> pa.Table:
    """A row for every canonical direction."""
    return pa.table(
        {
            "direction": range(len(found.correlations_K)),
            "correlation": found.correlations_K,
            "null_correlation": found.null_correlations_K,
        }
    )
