"""The figures of a probe study: over depth, over position, calibration, confusions.

C classes.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jobs.core.figures import NULL, PALETTE, panels, style
from jobs.probe.evaluate import Reliability
from jobs.probe.judge import Probe
from storage.site import Site

_COLUMNS = 3
_TICKS = 16
"""Sites named along an axis at most."""
_SAMPLES = 30
"""A point of a curve is drawn where it rests on at least this many examples."""
_WORDS = {"accuracy": "accuracy", "r2": "R²"}

Interval = tuple[float, float]


def over_sites(probes: Mapping[str, Sequence[Probe]], intervals: Mapping[tuple[str, Site], Interval]) -> Figure:
    """The headline metric at every site, a panel for each target; `probes` are in order of depth."""
    with style():
        figure, axes = _grid(len(probes), (4.2, 2.9))
        for ax, (target, mine) in zip(axes, probes.items(), strict=True):
            for kind, colour in zip(("stream", "attn", "mlp", "module"), PALETTE, strict=False):
                _site_line(ax, mine, intervals, target, kind, colour)
            _floor(ax, mine)
            best = max(mine, key=lambda probe: probe.validation)
            word = _WORDS[best.headline]
            ax.set_title(f"{target}: {word} {best.metrics[best.headline]:.2f} at {best.site}")
            ax.set_ylabel(f"{word}, test documents")
            ticks = range(0, len(mine), -(-len(mine) // _TICKS))
            ax.set_xticks(ticks, [str(mine[x].site) for x in ticks], rotation=45, ha="right")
            ax.set_ylim(min(0, ax.get_ylim()[0]), 1.02)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
        return figure


def over_positions(probes: Mapping[str, Sequence[Probe]], edges: np.ndarray) -> Figure | None:
    """When a document's label becomes readable: the headline metric by position, a line for each site."""
    shown = {target: mine for target, mine in probes.items() if any(n >= _SAMPLES for *_, n in mine[0].by_position)}
    if not shown:
        return None
    with style():
        figure, axes = _grid(len(shown), (4.4, 3.0))
        middle = np.sqrt(np.maximum(edges[:-1], 1) * np.maximum(edges[1:] - 1, 1))
        for ax, (target, mine) in zip(axes, shown.items(), strict=True):
            for probe, colour in zip(mine, _depth_colours(len(mine)), strict=True):
                points = [(middle[q], value) for q, value, n in probe.by_position if n >= _SAMPLES]
                ax.plot(*np.array(points).reshape(-1, 2).T, color=colour, lw=1.6, label=str(probe.site))
            _floor(ax, mine)
            best = max(mine, key=lambda probe: probe.validation)
            first, last = (best.by_position[i][1] for i in (0, -1))
            ax.set_title(f"{target}: {first:.2f} early, {last:.2f} late ({best.site})")
            ax.set_xscale("log", base=2)
            ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            ax.set_xlabel("position in the sequence, tokens")
            ax.set_ylabel(f"{_WORDS[best.headline]}, test documents")
            ax.set_ylim(min(0, ax.get_ylim()[0]), 1.02)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
        return figure


def calibration(best: Sequence[Probe]) -> Figure:
    """Reliability diagrams of the best site of every target with classes, before and after the temperature."""
    with style():
        figure, axes = _grid(len(best), (3.6, 3.4))
        for ax, probe in zip(axes, best, strict=True):
            assert probe.reliability is not None
            before, after = probe.reliability
            ax.plot([0, 1], [0, 1], color=NULL, ls="--", lw=1.2, label="perfectly calibrated")
            _reliability_line(ax, before, PALETTE[1], f"as fitted, error {before.error:.3f}")
            _reliability_line(ax, after, PALETTE[0], f"temperature {probe.temperature:.2f}, error {after.error:.3f}")
            ax.set_title(f"{probe.labels.name} at {probe.site}: off by {after.error:.1%}")
            ax.set_xlabel("confidence in the answer")
            ax.set_ylabel("share of right answers")
            ax.set_xlim(0, 1.02)
            ax.set_ylim(0, 1.02)
            ax.legend(loc="lower right", fontsize=7.5)
        return figure


def confusions(best: Sequence[Probe]) -> Figure:
    """What is taken for what at the best site of every target with classes; rows sum to 1."""
    with style():
        figure, axes = _grid(len(best), (3.9, 3.6))
        for ax, probe in zip(axes, best, strict=True):
            assert probe.confusion_CC is not None
            share_CC = probe.confusion_CC / np.maximum(probe.confusion_CC.sum(1, keepdims=True), 1)
            ax.imshow(share_CC, cmap="Blues", vmin=0, vmax=1)
            ax.grid(visible=False)
            names = [name if len(name) <= 14 else name[:13] + "…" for name in probe.labels.classes]
            ax.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
            ax.set_yticks(range(len(names)), names, fontsize=7)
            _numbers(ax, share_CC)
            ax.set_title(_worst(probe, share_CC), fontsize=9.5)
            ax.set_xlabel("probe's answer")
            ax.set_ylabel("label")
        return figure


def _grid(n: int, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    columns = 2 if n == 4 else min(n, _COLUMNS)
    figure, axes = panels(columns, -(-n // columns), size)
    for ax in axes[n:]:
        ax.set_visible(False)
    return figure, axes[:n]


def _line_of(site: Site) -> str:
    return "stream" if site.kind in ("embed", "resid", "unembed") else site.kind


def _site_line(
    ax: Axes,
    probes: Sequence[Probe],
    intervals: Mapping[tuple[str, Site], Interval],
    target: str,
    kind: str,
    colour: str,
) -> None:
    mine = [(x, probe) for x, probe in enumerate(probes) if _line_of(probe.site) == kind]
    if not mine:
        return
    x = [place for place, _ in mine]
    y = np.array([probe.metrics[probe.headline] for _, probe in mine])
    ends = np.array([intervals[target, probe.site] for _, probe in mine])
    label = {"stream": "residual stream"}.get(kind, kind)
    spread = np.maximum(np.stack([y - ends[:, 0], ends[:, 1] - y]), 0)
    ax.errorbar(x, y, yerr=spread, color=colour, marker="o", ms=4, lw=1.6, capsize=2, label=label)


def _floor(ax: Axes, probes: Sequence[Probe]) -> None:
    """The shuffled-label null (mean over sites, two standard deviations) and the commonest class."""
    null = [probe.null[probe.headline] for probe in probes if probe.null]
    if null:
        mean, spread = float(np.mean([each[0] for each in null])), 2 * max(each[1] for each in null)
        ax.axhspan(mean - spread, mean + spread, color=NULL, alpha=0.25, lw=0)
        ax.axhline(mean, color=NULL, lw=1.2, label="shuffled labels")
    if probes[0].baseline:
        ax.axhline(probes[0].baseline[probes[0].headline], color=NULL, lw=1.2, ls=":", label="commonest class")


def _depth_colours(n: int) -> Iterator[tuple[float, float, float, float]]:
    import matplotlib

    yield from matplotlib.colormaps["viridis"](np.linspace(0.0, 0.9, n))


def _reliability_line(ax: Axes, curve: Reliability, colour: str, label: str) -> None:
    """Points grow with the examples they rest on."""
    size = 4 + 90 * curve.count_Q / curve.count_Q.sum()
    ax.plot(curve.confidence_Q, curve.accuracy_Q, color=colour, lw=1.2, label=label)
    ax.scatter(curve.confidence_Q, curve.accuracy_Q, s=size, color=colour, lw=0)


def _numbers(ax: Axes, share_CC: np.ndarray) -> None:
    if len(share_CC) > 10:
        return
    for (row, column), share in np.ndenumerate(share_CC):
        if share >= 0.005:
            ax.text(
                column, row, f"{share:.2f}", ha="center", va="center", fontsize=7, color="w" if share > 0.5 else "k"
            )


def _worst(probe: Probe, share_CC: np.ndarray) -> str:
    wrong_CC = share_CC - np.diag(share_CC.diagonal())
    row, column = np.unravel_index(wrong_CC.argmax(), wrong_CC.shape)
    if wrong_CC.max() < 0.005:
        return f"{probe.labels.name} at {probe.site}:\nhardly anything confused"
    true, taken = probe.labels.classes[row], probe.labels.classes[column]
    return f"{probe.labels.name} at {probe.site}:\n{wrong_CC.max():.0%} of {true} taken for {taken}"
