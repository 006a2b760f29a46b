"""How well `shuffled` mixes: pairs of rows in a batch that come from one document, against a full shuffle.

`python -m benchmarks.quality` prints the table of docs/benchmarks.md and draws docs/figures/shuffle.svg.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np

from storage.shuffle import WINDOW_ROWS, Order, Shuffled

_ROWS, _CHUNK, _ROW_BYTES, _BATCH = 2**22, 1024, 1024, 4096
_LENGTHS = (16, 64, 256, 1024, 4096, 16384, 131072)
_FIGURE = Path(__file__).resolve().parent.parent / "docs" / "figures" / "shuffle.svg"

Order_N = Callable[[], Iterator[np.ndarray]]


class _Numbers:
    """Rows without contents: only which row comes when is asked."""

    row_bytes = _ROW_BYTES

    @property
    def shape(self) -> tuple[int, int]:
        return _ROWS, 1

    @property
    def edges(self) -> np.ndarray:
        return np.arange(0, _ROWS + 1, _CHUNK)

    def room(self, rows: int) -> np.ndarray:
        return np.empty((rows, 0), np.uint8)

    def fill(self, blocks: Sequence[tuple[int, int]], out_NW: np.ndarray) -> None:
        """Nothing to read."""

    def decoded(self, x_NW: np.ndarray) -> np.ndarray:
        return x_NW


def garner() -> Iterator[np.ndarray]:
    """Row numbers of batches as `shuffled` yields them."""
    for rows_B, _ in Shuffled[tuple[np.ndarray, np.ndarray]](_Numbers(), _BATCH, True, Order(seed=0)):
        yield rows_B


def full() -> Iterator[np.ndarray]:
    """Batches of one permutation of all rows."""
    yield from np.random.default_rng(0).permutation(_ROWS).reshape(-1, _BATCH)


def buffered() -> Iterator[np.ndarray]:
    """Batches drawn from a window of the same size that is filled with consecutive rows, as most loaders do."""
    rng = np.random.default_rng(0)
    for first in range(0, _ROWS, WINDOW_ROWS):
        yield from (first + rng.permutation(WINDOW_ROWS)).reshape(-1, _BATCH)


def share(batches: Iterator[np.ndarray], length: int) -> float:
    """Mean share of the pairs of a batch that are of one document, where each document has `length` rows."""
    shares = []
    for rows_B in batches:
        counts = np.unique(rows_B // length, return_counts=True)[1].astype(np.float64)
        shares.append((counts * (counts - 1)).sum() / (len(rows_B) * (len(rows_B) - 1)))
    return float(np.mean(shares))


def main() -> None:
    """Print the table, and draw it."""
    sides: dict[str, Order_N] = {"full shuffle": full, "garner": garner, "window of consecutive rows": buffered}
    found = {name: [share(side(), length) for length in _LENGTHS] for name, side in sides.items()}
    print("| rows of a document | " + " | ".join(found) + " |\n| ---: |" + " ---: |" * len(found))
    for at, length in enumerate(_LENGTHS):
        print(f"| {length:,} | " + " | ".join(f"{100 * values[at]:.4f} %" for values in found.values()) + " |")
    _draw(found)
    print(f"\n{_FIGURE}")


def _draw(found: dict[str, list[float]]) -> None:
    from matplotlib import pyplot as plt

    mpl.rcParams["svg.hashsalt"] = "garner"  # the same figure has the same bytes
    figure, axes = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
    for (name, values), style in zip(found.items(), ("k--", "C0o-", "C1s-"), strict=True):
        axes.loglog(_LENGTHS, values, style, label=name, base=2)
    axes.set(
        xlabel="rows of a document",
        ylabel="pairs of one document in a batch",
        title=f"{_ROWS // 2**20} M rows, batches of {_BATCH}, window of {WINDOW_ROWS:,} rows",
        yscale="log",
    )
    axes.legend(frameon=False)
    figure.savefig(_FIGURE, metadata={"Date": None})


if __name__ == "__main__":
    main()
