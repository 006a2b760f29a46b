"""The figures of a `steering` artifact."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jobs.core.figures import INK, NULL, PALETTE, panels, style
from jobs.steering.sweep import Line, at

_DASHES = ("--", ":", "-.")


def sweep(lines: Sequence[Line]) -> Figure:
    """Log-odds, fluency and off-target effect by strength."""
    live = [line for line in lines if line.evaluated == "live"]
    with style():
        figure, axes = panels(columns=3, size=(3.9, 3.4))
        for axis, what, label, title in (
            (axes[0], "log_odds", "log-odds of the answers, nats", "What it says next"),
            (axes[1], "nll", "-log p per token, nats", "Fluency of what follows"),
            (axes[2], "off_target", "KL divergence, nats", "Effect on other tokens"),
        ):
            _random(axis, live, what)
            for arm, colour, dash in _shown(live):
                mine = sorted((line for line in live if line.arm == arm), key=lambda line: line.alpha)
                alphas = [line.alpha for line in mine]
                axis.plot(alphas, [getattr(line, what) for line in mine], dash, color=colour, label=arm, lw=1.6)
                if what == "log_odds" and dash == "-":
                    axis.fill_between(
                        alphas, [x.low for x in mine], [x.high for x in mine], color=colour, alpha=0.2, lw=0
                    )
            axis.set(xlabel="strength, native norms", ylabel=label, title=title)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure


def _shown(live: Sequence[Line]) -> list[tuple[str, str, str]]:
    """Native and norm-matched transfers in colour, controls grey and dashed."""
    named = dict.fromkeys((line.arm, line.group) for line in live if line.matched and line.group != "random")
    coloured = [arm for arm, group in named if group != "control"]
    controls = [arm for arm, group in named if group == "control"]
    return [
        *((arm, colour, "-") for arm, colour in zip(coloured, PALETTE, strict=False)),
        *((arm, INK, _DASHES[at % len(_DASHES)]) for at, arm in enumerate(controls)),
    ]


def _random(axis: Axes, live: Sequence[Line], what: str) -> None:
    mine = [line for line in live if line.group == "random" and getattr(line, what) is not None]
    alphas = sorted({line.alpha for line in mine})
    if what == "nll" or not alphas:
        return
    values = [[getattr(line, what) for line in mine if line.alpha == alpha] for alpha in alphas]
    low, high = [min(some) for some in values], [max(some) for some in values]
    axis.fill_between(alphas, low, high, color=NULL, alpha=0.45, lw=0, label="random vectors")


def shares(lines: Sequence[Line]) -> Figure:
    """What every vector does at strength 1, over what the native one does."""
    own = at(lines, "native").shift
    reference = [line for line in lines if line.evaluated == "live" and line.alpha == 1 and line.arm != "native"]
    named = [line for line in reference if line.group != "random"]
    random = [line.shift / own for line in reference if line.group == "random"]
    with style():
        figure, (axis,) = panels(size=(5.4, 0.36 * (len(named) + 1) + 1.0))
        for row, line in enumerate(named):
            colour = PALETTE[0] if line.group == "transfer" else NULL
            axis.barh(row, line.shift / own, height=0.6, color=colour)
            axis.text(
                max(line.shift / own, 0) + 0.02, row, f"{line.shift / own:.2f}", va="center", fontsize=8.5, color=INK
            )
        axis.scatter(random, np.full(len(random), len(named)), s=16, color=NULL, zorder=2)
        axis.set_yticks(range(len(named) + 1), [*(line.arm for line in named), f"{len(random)} random vectors"])
        axis.invert_yaxis()
        axis.axvline(1, color=INK, lw=1, ls=":")
        axis.axvline(0, color=INK, lw=0.8)
        axis.set(xlabel="share of the native vector's shift", title="What each vector does at strength 1")
        axis.grid(visible=False, axis="y")
        axis.margins(x=0.12)
    return figure
