"""The figure of a `persistence` artifact."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from jobs.alignment.figures import heat
from jobs.core.figures import panels, style
from jobs.persistence.cells import CONTROLS, MEASURES, Cell

_CONTROLS = {"raw": "as they are", "centred": "centred", "without_top": "without the widest"}
_MEASURES = {"pearson": "Pearson r", "cka": "CKA", "neighbours": "Neighbours shared", "rotation": "Rotation, R²"}


def maps(found: Sequence[Cell]) -> Figure:
    """A panel for every measure and control."""
    sources, targets = (sorted({getattr(cell, side) for cell in found}) for side in ("source", "target"))
    names = [str(site) for site in sources], [str(site) for site in targets]
    size = min(7.0, 1.5 + 0.45 * len(targets)), min(5.0, 1.3 + 0.33 * len(sources))
    with style():
        figure, axes = panels(columns=len(MEASURES), rows=len(CONTROLS), size=size)
        for at, axis in enumerate(axes):
            control, measure = CONTROLS[at // len(MEASURES)], MEASURES[at % len(MEASURES)]
            mine = [cell for cell in found if (cell.measure, cell.control) == (measure, control)]
            value_ST = np.full((len(sources), len(targets)), np.nan)
            for cell in mine:
                value_ST[sources.index(cell.source), targets.index(cell.target)] = cell.value
            heat(axis, value_ST, *names, "viridis", 0)
            axis.set_title(
                f"{_MEASURES[measure]}, {_CONTROLS[control]}\nnull {np.mean([one.null for one in mine]):.2f}"
            )
    return figure
