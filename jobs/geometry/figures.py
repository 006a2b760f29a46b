"""The figures of a geometry artifact."""

from collections.abc import Sequence
from functools import cache

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from torch import Tensor

from jobs.core.figures import INK, NULL, PALETTE, panels, style
from jobs.geometry.agreement import Agreement, Local
from jobs.geometry.space import Space

SHOWN = 9
"""Points listed at each end of the scale."""
NEIGHBOURS = 6
"""Neighbours listed of each."""


def similarity_figure(agreement: Agreement, names: Sequence[str]) -> Figure:
    """Cosines of sampled pairs in the one space against the other, and r beside its permuted null."""
    found = agreement.cosine
    with style():
        figure, (left, right) = panels(columns=2)
        image = left.hexbin(*agreement.pairs_S, gridsize=55, bins="log", mincnt=1, cmap="Blues", linewidths=0)
        figure.colorbar(image, ax=left, label="pairs of points")
        left.set(xlabel=f"cosine in {names[0]}", ylabel=f"cosine in {names[1]}")
        left.set_title(f"Agreement on what is alike: r = {found.r:.2f}")
        left.set_axisbelow(True)
        left.locator_params(nbins=6)
        for row, (label, part, colour) in enumerate(
            (("cosine", found, PALETTE[0]), ("cosine, mean removed", agreement.centred, PALETTE[1]))
        ):
            right.scatter(part.null_P, np.full(len(part.null_P), row), s=14, color=NULL, zorder=2)
            right.plot([part.low, part.high], [row, row], color=colour, lw=3, solid_capstyle="round")
            right.plot(part.r, row, "o", color=colour, ms=7)
            right.text(0.02, (row + 0.85) / 2.2, label, transform=right.transAxes, color=colour)
        right.set(ylim=(-0.6, 1.6), yticks=[], xlabel="Pearson r over all pairs (95% interval over points)")
        right.set_xlim(min(-0.1, right.get_xlim()[0]), 1.05)
        right.set_title("Grey: the same with points permuted")
    return figure


def local_figure(agreement: Agreement) -> Figure:
    """How much of each point's neighbourhood the two spaces share, beside permuted points."""
    parts = (
        ("Same weights", "cosine of LLE weights", agreement.weights),
        ("Given the neighbours", "cosine, first space's neighbours", agreement.refitted),
        ("Same neighbours", "share of neighbours in both", agreement.overlap),
    )
    with style():
        figure, axes = panels(columns=3, size=(3.6, 3.0))
        for axis, (title, label, part) in zip(axes, parts, strict=True):
            _score_histogram(axis, part)
            axis.set(xlabel=label, title=f"{title}: {part.score_N.mean():.2f}", yticks=[])
        axes[0].set_ylabel("points")
        figure.legend(["points permuted", "measured"], loc="outside lower center", ncols=2)
    return figure


def _score_histogram(axis: Axes, part: Local) -> None:
    score_N, null_N = part.score_N.cpu().numpy(), part.null_N.cpu().numpy()
    edges = np.linspace(min(0.0, score_N.min(), null_N.min()), max(1.0, score_N.max(), null_N.max()), 41)
    axis.set_axisbelow(True)
    for values, colour, alpha in ((null_N, NULL, 0.75), (score_N, PALETTE[0], 0.7)):
        heights, _ = np.histogram(values, edges)
        axis.stairs(heights / heights.max(), edges, fill=True, color=colour, alpha=alpha)


def dimension_figure(spaces: Sequence[Space], r: float | None) -> Figure:
    """Intrinsic dimension of the points beside a Gaussian of the same covariance, and one space against the other."""
    with style():
        figure, axes = panels(columns=len(spaces) + (r is not None), size=(4.4, 3.2))
        for axis, space, colour in zip(axes, spaces, PALETTE, strict=False):
            _dimension_histogram(axis, space, colour)
        if r is not None:
            _dimension_scatter(axes[-1], spaces, r)
    return figure


def _dimension_histogram(axis: Axes, space: Space, colour: str) -> None:
    found_Q, control_Q = space.dimension_Q.cpu().numpy(), space.control_Q.cpu().numpy()
    low, high = min(found_Q.min(), control_Q.min()), max(found_Q.max(), control_Q.max())
    edges = np.arange(low, high + 2, max(1, (high - low) // 30)) - 0.5
    axis.hist(control_Q, edges.tolist(), color=NULL, alpha=0.75, label=f"Gaussian, median {np.median(control_Q):.0f}")
    axis.hist(found_Q, edges.tolist(), color=colour, alpha=0.75, label=f"points, median {np.median(found_Q):.0f}")
    axis.axvline(space.ceiling, color=INK, ls=":", lw=1.4, label=f"ceiling, {space.ceiling}")
    finding = f"{np.median(found_Q):.0f} of {space.x_ND.shape[1]}{', saturated' if space.saturated else ''}"
    axis.set(xlabel="intrinsic dimension", ylabel="points", title=f"{space.name}: {finding}")
    axis.set(xlim=(0, space.ceiling * 1.04), ylim=(0, axis.get_ylim()[1] * 1.45), axisbelow=True)
    axis.legend(loc="upper left")


def _dimension_scatter(axis: Axes, spaces: Sequence[Space], r: float) -> None:
    first_Q, second_Q = (space.dimension_Q.cpu().numpy().astype(float) for space in spaces)
    spread = np.random.default_rng(0).uniform(-0.35, 0.35, (2, len(first_Q)))  # integers would hide each other
    axis.scatter(first_Q + spread[0], second_Q + spread[1], s=9, alpha=0.45, color=PALETTE[2], linewidths=0)
    axis.set(xlabel=f"dimension in {spaces[0].name}", ylabel=f"dimension in {spaces[1].name}")
    axis.set_title(f"Agreement on dimension: r = {r:.2f}")


def points_figure(space: Space, strings: Sequence[str]) -> Figure:
    """The points of lowest and of highest dimension with their nearest neighbours, to be read."""
    order_Q = space.dimension_Q.argsort(stable=True)
    n = min(SHOWN, len(order_Q) // 2)
    with style():
        figure, axes = panels(rows=2, size=(9.2, 0.25 * n + 0.5))
        for axis, title, at_Q, colour in (
            (axes[0], "Lowest", order_Q[:n], PALETTE[2]),
            (axes[1], "Highest", order_Q[-n:].flip(0), PALETTE[3]),
        ):
            _list_points(axis, space, strings, at_Q, colour)
            axis.set_title(f"{title} intrinsic dimension in {space.name}, and the nearest points")
    return figure


def _list_points(axis: Axes, space: Space, strings: Sequence[str], at_Q: Tensor, colour: str) -> None:
    axis.set_axis_off()
    axis.set(xlim=(0, 1), ylim=(len(at_Q) - 0.4, -0.6))
    for row, place in enumerate(at_Q.tolist()):
        point = int(space.queries_Q[place])
        axis.text(0.03, row, str(int(space.dimension_Q[place])), color=NULL, va="center", ha="right")
        axis.text(0.05, row, readable(strings[point], 20), color=colour, va="center", weight="bold", parse_math=False)
        for column, other in enumerate(space.near.indices_QK[point, :NEIGHBOURS].tolist()):
            axis.text(0.28 + 0.122 * column, row, readable(strings[other], 12), va="center", parse_math=False)


def readable(text: str, width: int) -> str:
    """`text` in at most `width` characters that the font can draw; white space and the rest are made visible."""
    shown = "".join("·" if char.isspace() else char if ord(char) in _drawable() else "□" for char in text)
    head = (width - 1) // 2
    return shown if len(shown) <= width else f"{shown[:head]}…{shown[head + 1 - width :]}"


@cache
def _drawable() -> frozenset[int]:
    return frozenset(get_font(findfont(FontProperties())).get_charmap())
