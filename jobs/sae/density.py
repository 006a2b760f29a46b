"""How often features fire: the histogram of log10 of firing density, and the share that fires all the time or hardly.

F features, E edges of bins.
"""

import numpy as np

from jobs.core.context import Metric
from storage.value import Value

DENSE = 0.1
"""A feature that fires on a larger share of rows says little about any one of them."""
RARE = 1e-4
"""One that fires on a smaller share has too few examples to read."""
_BINS_PER_DECADE = 4


class Density(Value):
    """Firing densities of the features that fire at all, in bins, and how many lie at the ends."""

    n_rows: int
    """Rows that were looked at: nothing rarer than one in so many can be seen."""
    edges: tuple[float, ...]
    """log10 of density, ascending, one more than the counts."""
    counts: tuple[int, ...]
    """Features in each bin; the last bin has its upper edge too."""
    dead: int
    """Features that never fire."""
    rare: int
    """Live features below `RARE`."""
    dense: int
    """Features above `DENSE`."""
    width: int
    """Features in all."""


def density(density_F: np.ndarray, n_rows: int) -> Density:
    """Of each feature's share of `n_rows` rows."""
    live = density_F[density_F > 0]
    lowest = -max(np.ceil(np.log10(n_rows)), 1)
    edges_E = np.linspace(lowest, 0, int(-lowest) * _BINS_PER_DECADE + 1)
    counts, _ = np.histogram(np.clip(np.log10(live), lowest, 0), edges_E)
    return Density(
        n_rows=n_rows,
        edges=tuple(edges_E.tolist()),
        counts=tuple(counts.tolist()),
        dead=int((density_F == 0).sum()),
        rare=int((live < RARE).sum()),
        dense=int((density_F > DENSE).sum()),
        width=len(density_F),
    )


def metrics(found: Density) -> tuple[Metric, ...]:
    """Shares of all features; no null, for a dictionary of no merit may fire as often as it likes."""
    return (
        Metric(name="dense", value=found.dense / found.width, about=f"share that fires on over {DENSE:.0%} of rows"),
        Metric(name="rare", value=found.rare / found.width, about=f"share that fires, on under {RARE:.2%} of rows"),
    )


def notes(found: Density) -> tuple[str, ...]:
    """What the rows could not show."""
    if found.n_rows * RARE >= 1:
        return ()
    return (f"{found.n_rows} rows cannot show a feature that fires on under {RARE:.2%} of them: `rare` is 0 here.",)
