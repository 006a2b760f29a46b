"""The figure of a `contrast` artifact."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from jobs.contrast.fit import Found
from jobs.core.figures import INK, NULL, PALETTE, panels, style


def over_sites(found: Sequence[Found]) -> Figure:
    """Held-out AUROC of every method at every site, beside exchanged sides."""
    sites = list(dict.fromkeys(str(one.site) for one in found))
    methods = list(dict.fromkeys(one.method for one in found))
    with style():
        figure, (axis,) = panels(size=(max(4.4, 0.55 * len(sites) + 2), 3.2))
        for method, colour in zip(methods, PALETTE, strict=False):
            mine = [one for one in found if one.method == method]
            axis.plot([one.null for one in mine], color=NULL, marker="o", ms=4, lw=1)
            axis.plot([one.auroc for one in mine], color=colour, marker="o", ms=6, label=method.replace("_", " "))
        axis.axhline(0.5, color=INK, lw=0.8, ls=":")
        axis.plot([], [], color=NULL, marker="o", ms=4, lw=1, label="sides exchanged")
        axis.set_xticks(range(len(sites)), sites, rotation=45, ha="right")
        axis.set(ylabel="AUROC on held-out documents", ylim=(min(0.35, axis.get_ylim()[0]), 1.03))
        axis.set_title("Where the two sides can be told apart")
        axis.legend(loc="best")
    return figure
