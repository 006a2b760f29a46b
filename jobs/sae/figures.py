"""Figures of a dictionary: how training went, how its features behave, and what eight of them say."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.ticker import LogLocator, NullFormatter

from jobs.core.figures import INK, NULL, PALETTE, panels, style
from jobs.sae.features import Purity
from jobs.sae.train import Point

_MONO = "DejaVu Sans Mono"
_SIZE = 7.5
"""Points, of the text in contexts."""
_CHARACTER = 0.602 * _SIZE / 72
"""Inches that one character of it takes."""
_LEFT, _TOKEN, _RIGHT = 34, 14, 20
"""Characters of a context line: left of the token, the token at most, right of it."""
_LINES = 5
_QUIET = "#616e7c"


@dataclass(frozen=True)
class Card:
    """What stands above a feature's contexts."""

    feature: int
    about: str
    """Density and purity."""
    label: str = ""
    """What it tells, if it was chosen for that."""


def training(history: Sequence[Point], fvu: float, random_fvu: float, pca_fvu: float, k: int) -> Figure:
    """FVU over the course of training, with what a random dictionary and PCA leave."""
    with style():
        figure, (ax,) = panels(size=(6.4, 3.4))
        rows = [point.rows for point in history]
        ax.plot(rows, [point.fvu for point in history], color=PALETTE[0], alpha=0.35, label="training batch")
        ax.plot(rows, [point.held_out_fvu for point in history], color=PALETTE[0], label="held-out documents")
        high = max(random_fvu, pca_fvu)
        for value, dash, name in ((random_fvu, "--", "random dictionary"), (pca_fvu, ":", "PCA")):
            ax.axhline(value, color=NULL, linestyle=dash)
            offset, side = ((-2, 3), "bottom") if value == high else ((-2, -3), "top")
            place: dict[str, Any] = {"xytext": offset, "textcoords": "offset points", "ha": "right", "va": side}
            text = f"{name}, {k} numbers per token"
            ax.annotate(text, (rows[-1], value), color=_QUIET, fontsize=8.5, **place)
        ax.set(xlabel="rows seen", ylabel="fraction of variance unexplained", yscale="log", xlim=(0, rows[-1]))
        ax.set_title(f"{1 - fvu:.1%} of held-out variance from {k} features per token")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter("{x:.2g}")
        ax.yaxis.set_minor_formatter(NullFormatter())
        ax.xaxis.set_major_formatter(lambda x, _: f"{x / 1000:,.0f}k" if x else "0")
        ax.legend(loc="center right")
        return figure


def behaviour(density_F: np.ndarray, pure: Purity, n_rows: int) -> Figure:
    """How often features speak, and how far their strongest tokens are one token."""
    with style():
        figure, (left, right) = panels(columns=2)
        _densities(left, density_F, n_rows)
        _purities(right, pure)
        return figure


def _densities(ax: Axes, density_F: np.ndarray, n_rows: int) -> None:
    ax.set_axisbelow(True)
    alive = density_F[density_F > 0]
    edges = np.geomspace(1 / n_rows, 1, 41)
    ax.hist(alive, bins=edges.tolist(), color=PALETTE[0])
    dead = len(density_F) - len(alive)
    ax.set(
        xscale="log", xlim=(0.7 / n_rows, 1), xlabel="share of held-out tokens a feature fires on", ylabel="features"
    )
    often = f"1 in {1 / np.median(alive):,.0f} tokens" if len(alive) else "no token"
    ax.set_title(f"The median live feature fires on {often}")
    ax.text(0.03, 0.95, f"{dead} of {len(density_F)} never fire", transform=ax.transAxes, va="top", color=_QUIET)


def _purities(ax: Axes, pure: Purity) -> None:
    ax.set_axisbelow(True)
    edges = np.linspace(0, 1, 21).tolist()
    for shares, color, name in ((pure.null_F, NULL, "random tokens"), (pure.shares_F, PALETTE[0], "features")):
        if len(shares):
            weights = np.full(len(shares), 100 / len(shares))
            ax.hist(shares, bins=edges, weights=weights, color=color, alpha=0.85, label=name)
    ax.set(xlabel="share of strongest tokens that are one token", ylabel="% of features")
    if len(pure.shares_F):
        ax.set_title(f"Purity {pure.shares_F.mean():.0%}, by chance {pure.null_F.mean():.0%}")
    ax.legend()


def contexts(cards: Sequence[Card], examples: pa.Table) -> Figure:
    """Two columns of features, each with its strongest tokens in their context."""
    rows = -(-len(cards) // 2)
    width, block = _LEFT + _TOKEN + _RIGHT + 6, _LINES + 3.6
    with style():
        figure, (ax,) = panels(size=(2 * width * _CHARACTER, max(rows, 1) * block * _SIZE * 1.75 / 72))
        figure.set_layout_engine("none")
        ax.set_position((0, 0, 1, 1))
        ax.set_axis_off()
        ax.set(xlim=(0, 2 * width), ylim=(max(rows, 1) * block, 0))
        columns = {name: examples[name].to_pylist() for name in ("feature", "activation", "left", "token", "right")}
        for number, card in enumerate(cards):
            of_card = [n for n, feature in enumerate(columns["feature"]) if feature == card.feature][:_LINES]
            lines = [{name: columns[name][n] for name in columns} for n in of_card]
            _card(ax, card, lines, 2 + (number % 2) * width, (number // 2) * block + 1)
        return figure


def _card(ax: Axes, card: Card, lines: Sequence[Mapping[str, object]], x: float, y: float) -> None:
    color = PALETTE[1] if card.label else PALETTE[0]
    name = ax.annotate(f"feature {card.feature}", (x, y), fontsize=9.5, fontweight="bold", color=INK, va="center")
    where: dict[str, Any] = {"xycoords": name, "xytext": (7, 0), "textcoords": "offset points", "va": "center"}
    if card.label:
        label = textwrap.shorten(
            printable(card.label), _LEFT + _TOKEN + _RIGHT - len(" feature 0000 "), placeholder=" …"
        )
        ax.annotate(label, (1, 0.5), fontsize=8, color=color, fontweight="bold", parse_math=False, **where)
    ax.text(x, y + 1.15, printable(card.about), fontsize=8, color=_QUIET, va="center", parse_math=False)
    strongest = max((float(str(line["activation"])) for line in lines), default=1.0)
    for n, line in enumerate(lines):
        _context(ax, line, x + _LEFT, y + 2.4 + n, float(str(line["activation"])) / strongest, color)


def _context(ax: Axes, line: Mapping[str, object], x: float, y: float, strength: float, color: str) -> None:
    """One line of running text with its token marked, the stronger the darker."""
    left, token, right = (printable(str(line[name])) for name in ("left", "token", "right"))
    token = token if len(token) <= _TOKEN else token[: _TOKEN - 1] + "…"
    mono: dict[str, Any] = {"family": _MONO, "fontsize": _SIZE, "va": "center", "parse_math": False}
    ax.text(x, y, _kept(_last_words(left, _LEFT)), ha="right", color=_QUIET, **mono)
    ax.text(
        x + len(token), y, _kept(_first_words(right, _RIGHT + _TOKEN - len(token))), ha="left", color=_QUIET, **mono
    )
    box = {"boxstyle": "square,pad=0.12", "facecolor": color, "alpha": 0.12 + 0.38 * strength, "linewidth": 0}
    ax.text(x, y, _kept(token), ha="left", color=INK, bbox=box, **mono)


def _kept(text: str) -> str:
    """Spaces that a browser keeps at the ends of a text."""
    return text.replace(" ", "\u00a0")


def _last_words(text: str, n: int) -> str:
    """The last `n` characters at most, cut between words where there is a place to cut."""
    if len(text) <= n:
        return text
    tail = text[-n:]
    return tail if text[-n - 1].isspace() or " " not in tail[:-1] else tail[tail.index(" ") + 1 :]


def _first_words(text: str, n: int) -> str:
    """The first `n` characters at most, cut between words where there is a place to cut."""
    return _last_words(text[::-1], n)[::-1]


def printable(text: str) -> str:
    """`text` on one line, with a box for what the font lacks (the table has it as it is)."""
    known = _known()
    return "".join(c if ord(c) in known else "□" for c in text.replace("\n", "⏎").replace("\t", " "))


@cache
def _known() -> frozenset[int]:
    fonts = (FontProperties(family=[_MONO]), FontProperties(family=["DejaVu Sans"]))
    return frozenset.intersection(*(frozenset(get_font(findfont(font)).get_charmap()) for font in fonts))
