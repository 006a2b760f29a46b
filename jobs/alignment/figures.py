"""The job's figures: layers against layers, maps against their nulls, canonical correlations.

Shapes: S source sites, T target sites, K canonical directions.
"""

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from jobs.alignment.grid import WIDEST, Cell
from jobs.alignment.maps import map_name
from jobs.alignment.study import KS, Found, Study
from jobs.core.context import Context
from jobs.core.figures import INK, NULL, PALETTE, panels, style

LOWEST = -0.5
"""Where the axis of R2 is cut; an overfitted map falls without end, and its bar carries its number."""
STRONG = 0.9
"""Canonical correlations above this are counted."""
READABLE = 144
"""Cells up to which each carries its number."""


def draw(
    ctx: Context,
    grid: list[Cell],
    found: Study,
    source: tuple[str, ...],
    target: tuple[str, ...],
    names: tuple[str, str],
    chosen: Cell,
) -> None:
    """All figures; layer maps only where there is more than one pair of sites."""
    pair = f"{names[0]} {source[chosen.source]} to {names[1]} {target[chosen.target]}"
    with style():
        if len(grid) > 1:
            ctx.figure(
                "layers",
                layers(grid, source, target, chosen),
                "How much of each target site's variance a linear map from each source site explains on held-out "
                "documents (best map by validation), and how much of that token identity does not explain",
            )
            ctx.figure(
                "cka",
                similarity(grid, source, target),
                "Linear CKA of every pair of sites, as it is and without the widest principal components",
            )
        ctx.figure(
            "maps",
            maps(found, chosen.best, pair),
            "Held-out R2 and retrieval of each map, its permuted null, and the token-identity baseline",
        )
        ctx.figure(
            "canonical",
            canonical(found, pair),
            "Canonical correlations on held-out documents; grey: directions fitted to permuted rows",
        )


def layers(grid: list[Cell], source: Sequence[str], target: Sequence[str], chosen: Cell) -> Figure:
    """Held-out R2 of every pair of sites, and its lead over token identity."""
    figure, (left, right) = panels(2, size=_heat_size(source, target))
    r2_ST = _square(grid, source, [cell.best_r2 for cell in grid])
    lead_ST = _square(grid, source, [cell.best_r2 - cell.token_r2 for cell in grid])
    best = max(grid, key=lambda cell: cell.best_r2)
    heat(left, r2_ST, source, target, "viridis", 0)
    left.set_title(f"Best held-out R²: {best.best_r2:.2f},\n{source[best.source]} to {target[best.target]}")
    heat(right, lead_ST, source, target, "RdBu", -1)
    _frame(right, chosen)
    lead = chosen.best_r2 - chosen.token_r2
    right.set_title(f"R² beyond token identity: {lead:+.2f},\n{source[chosen.source]} to {target[chosen.target]}")
    return figure


def similarity(grid: list[Cell], source: Sequence[str], target: Sequence[str]) -> Figure:
    """Linear CKA of every pair of sites."""
    figure, (left, right) = panels(2, size=_heat_size(source, target))
    cka_ST = _square(grid, source, [cell.cka for cell in grid])
    rest_ST = _square(grid, source, [cell.cka_without_widest for cell in grid])
    heat(left, cka_ST, source, target, "viridis", 0)
    left.set_title(f"Linear CKA, debiased:\n{np.nanmin(cka_ST):.2f} to {np.nanmax(cka_ST):.2f}")
    heat(right, rest_ST, source, target, "viridis", 0)
    right.set_title(f"Without {WIDEST} widest components:\n{np.nanmin(rest_ST):.2f} to {np.nanmax(rest_ST):.2f}")
    return figure


def maps(found: Study, best: int, pair: str) -> Figure:
    """Bars for R2 and for each depth of retrieval: every map, its null, the baseline and chance."""
    shown = found.maps[best]
    figure, axes = panels(1 + len(KS), size=(3.6, 3.4))
    _bars(axes[0], found, lambda one: one.judged.r2)
    axes[0].set_title(f"{pair}:\nR² {_number(shown.held_out.judged.r2)} by {map_name(shown.kind)}")
    axes[0].set_ylabel("R² on test documents")
    for axis, k in zip(axes[1:], KS, strict=True):
        _bars(axis, found, lambda one: one.retrieval[k])  # noqa: B023  called within this turn
        chance = min(1.0, k / found.n_sampled)
        axis.axhline(chance, color=NULL, linestyle=":")
        axis.set_ylabel(f"own row among the {k} nearest" if k > 1 else "own row is the nearest")
        axis.set_title(
            f"Retrieval@{k} of {found.n_sampled:,}:\n{shown.held_out.retrieval[k]:.0%}, chance {chance:.2%} (dotted)"
        )
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def canonical(found: Study, pair: str) -> Figure:
    """Held-out canonical correlations in order, beside those of directions fitted to permuted rows."""
    figure, (axis,) = panels(1, size=(5.6, 3.6))
    rank_K = np.arange(1, len(found.correlations_K) + 1)
    axis.plot(rank_K, found.null_correlations_K, color=NULL, linewidth=1, label="fitted to permuted rows")
    axis.plot(rank_K, found.correlations_K, color=PALETTE[0], linewidth=2, label="held-out documents")
    strong = int((found.correlations_K > STRONG).sum())
    axis.set_title(f"{pair}:\n{strong} of {len(rank_K)} directions correlate above {STRONG}")
    axis.set_xlabel("canonical direction, by training correlation")
    axis.set_ylabel("correlation on test documents")
    axis.set_ylim(min(-0.1, float(found.null_correlations_K.min())), 1.02)
    axis.legend()
    return figure


def _bars(axis: Axes, found: Study, score: Callable[[Found], float]) -> None:
    """A bar for each map with its null beside it, and one for token identity."""
    heights = [score(mapped.held_out) for mapped in found.maps]
    at = np.arange(len(heights))
    null = [score(mapped.null) for mapped in found.maps]
    drawn = [
        axis.bar(at - 0.2, heights, 0.4, color=PALETTE[0], label="map"),
        axis.bar(at + 0.2, null, 0.4, color=NULL, label="fitted to permuted rows"),
        axis.bar(len(at), score(found.token), 0.4, color="white", edgecolor=INK, hatch="//", label="token identity"),
    ]
    for bars in drawn:
        axis.bar_label(bars, fmt=_number, fontsize=8, padding=1)
    lowest = min(*heights, *null, score(found.token))
    axis.set_ylim(max(LOWEST, min(-0.05, 1.15 * lowest)), 1.09)
    axis.set_xticks(
        [*at, len(at)], [*(map_name(mapped.kind).replace("-", "\n") for mapped in found.maps), "token\nidentity"]
    )
    axis.set_axisbelow(True)
    axis.grid(False, axis="x")


def _square(grid: list[Cell], source: Sequence[str], values: list[float]) -> np.ndarray:
    """The cells' values as [S, T]; the grid goes source site by source site."""
    return np.array(values).reshape(len(source), len(grid) // len(source))


def heat(
    axis: Axes, value_ST: np.ndarray, source: Sequence[str], target: Sequence[str], colours: str, low: float
) -> None:
    """A map of source sites against target sites; small ones carry their numbers."""
    image = axis.imshow(value_ST, cmap=colours, vmin=low, vmax=1, aspect="auto")
    axis.set_xticks(range(len(target)), target, rotation=45, ha="right")
    axis.set_yticks(range(len(source)), source)
    axis.set_xlabel("target site")
    axis.set_ylabel("source site")
    axis.grid(False)
    if value_ST.size > READABLE:
        axis.figure.colorbar(image, ax=axis)
    else:
        for (i, j), value in np.ndenumerate(value_ST):
            red, green, blue, _ = image.cmap(image.norm(value))
            dark = 0.3 * red + 0.6 * green + 0.1 * blue < 0.5
            axis.text(j, i, _number(value), ha="center", va="center", color="white" if dark else INK, fontsize=8.5)


def _frame(axis: Axes, cell: Cell) -> None:
    corner = (cell.target - 0.5, cell.source - 0.5)
    axis.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=INK, linewidth=2, clip_on=False))


def _number(value: float) -> str:
    """Two digits, and no minus before a zero."""
    return f"{round(float(value), 2) + 0.0:.2f}"


def _heat_size(source: Sequence[str], target: Sequence[str]) -> tuple[float, float]:
    return min(9.0, 2.0 + 0.6 * len(target)), min(7.0, 1.8 + 0.42 * len(source))
