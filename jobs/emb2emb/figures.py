"""The figures of an `emb2emb` artifact."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jobs.alignment.study import Found
from jobs.core.figures import INK, NULL, PALETTE, panels, style
from jobs.emb2emb.study import Mapped

LOWEST = -0.25
"""Where R2 is cut; a bar that goes on below carries its number."""


def maps(found: Sequence[Mapped]) -> Figure:
    """R2, retrieval and size of every map beside its null."""
    measures: tuple[tuple[str, Callable[[Found], float]], ...] = (
        ("R2 on held-out tokens", lambda one: one.judged.r2),
        ("Own row among the nearest 10", lambda one: one.retrieval[10]),
        ("Norm, mapped over native", lambda one: one.judged.norm_ratio),
    )
    with style():
        figure, axes = panels(columns=len(measures), size=(3.5, 0.45 * len(found) + 1.4))
        for axis, (title, measure), colour in zip(axes, measures, PALETTE, strict=False):
            _bars(axis, found, measure, colour)
            axis.set_title(title)
        axes[0].set_yticks(range(len(found)), [mapped.name for mapped in found])
        for axis in axes[1:]:
            axis.set_yticks(range(len(found)), [""] * len(found))
    return figure


def _bars(axis: Axes, found: Sequence[Mapped], measure: Callable[[Found], float], colour: str) -> None:
    for row, mapped in enumerate(found):
        for value, shade, shift in ((measure(mapped.held_out), colour, -0.17), (measure(mapped.null), NULL, 0.19)):
            shown = max(value, LOWEST)
            axis.barh(row + shift, shown, height=0.34, color=shade)
            axis.text(max(shown, 0) + 0.02, row + shift, f"{value:.2f}", va="center", fontsize=8, color=INK)
    axis.invert_yaxis()
    axis.margins(x=0.16)
    axis.axvline(0, color=INK, lw=0.8)
    axis.grid(visible=False, axis="y")


def singular(found: Sequence[Mapped]) -> Figure:
    """The singular values of every map, from the largest."""
    with style():
        figure, (axis,) = panels(size=(5.2, 3.2))
        for mapped, colour in zip(found, PALETTE, strict=False):
            values = torch.linalg.svdvals(mapped.fitted.M_ST).cpu().numpy()
            axis.plot(np.arange(1, len(values) + 1), values, color=colour, label=mapped.name)
        axis.set(xlabel="place", ylabel="singular value", yscale="log", title="What the maps stretch and shrink")
        bottom = max(axis.get_ylim()[0], 1e-4)
        axis.set_ylim(bottom=bottom)
        axis.legend()
    return figure
