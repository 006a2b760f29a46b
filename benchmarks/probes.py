"""All labels of a site at once, against scikit-learn in a loop over labels and penalties.

`python -m benchmarks.probes`.

One thread each, in turns, on the same training and validation rows with the same penalties; the loop starts every fit
where the last one ended. Sites follow one another on both sides, so one of them is the measure.

N rows, D width, P labels, C classes.
"""

import argparse
import sys
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from threadpoolctl import threadpool_limits

from benchmarks.timing import Result, side_by_side, table
from jobs.probe.logistic import design, fit_logistic, scores

CLASSES = (2, 2, 2, 3, 4, 5, 8, 10)
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
SIGNAL = (1.0, 1.5, 2.0, 3.0)
SPECTRA = {"states of even spectrum": (0.3, 1.0), "states of a hidden layer's spectrum": (0.75, 10.0)}
"""How fast the coordinates' spread falls, and how much wider two of them are: hidden states have massive dimensions."""


class Site:
    """States with a planted direction for every class of every label, some hard to tell and some easy."""

    def __init__(self, rows: int, width: int, decay: float, wide: float) -> None:
        """Coordinates have standard deviations i^-decay; two of them are `wide` times as wide."""
        rng = np.random.default_rng(0)
        scale = np.arange(1, width + 1) ** -decay
        scale[:2] *= wide
        x_ND = rng.normal(size=(rows, width)) * scale
        self.y_PN = np.stack([rng.integers(classes, size=rows) for classes in CLASSES])
        for at, (y_N, classes) in enumerate(zip(self.y_PN, CLASSES, strict=True)):
            directions = rng.normal(size=(classes, width)) * scale
            x_ND += SIGNAL[at % len(SIGNAL)] * (directions / width**0.5)[y_N]
        self.x_ND = (x_ND - x_ND.mean(0)).astype(np.float32)
        self.train, self.validation, self.test = np.split(np.arange(rows), [rows * 6 // 10, rows * 75 // 100])
        self.unit = float(np.mean(self.x_ND[self.train].var(0)))
        self.found: dict[str, list[float]] = {}

    def ours(self) -> None:
        """Every label and penalty from one design."""
        x, y = torch.from_numpy(self.x_ND), torch.from_numpy(self.y_PN)
        chosen = fit_logistic(
            design(x[self.train]), y[:, self.train], x[self.validation], y[:, self.validation], CLASSES, PENALTIES
        )
        told = [scores(one.fit, x[self.test]).argmax(1).numpy() for one in chosen]
        self.found["ours"] = [float((t == y_N[self.test]).mean()) for t, y_N in zip(told, self.y_PN, strict=True)]

    def theirs(self) -> None:
        """A fit for each label and penalty."""
        self.found["theirs"] = [self._best(y_N) for y_N in self.y_PN]

    def _best(self, y_N: np.ndarray) -> float:
        model = LogisticRegression(warm_start=True, max_iter=2000)
        best, accuracy = np.inf, 0.0
        for penalty in sorted(PENALTIES, reverse=True):
            two = (
                2 if y_N.max() == 1 else 1
            )  # of two classes it has one column, which stands for two of half the penalty
            model.set_params(C=two / (len(self.train) * penalty * self.unit))
            model.fit(self.x_ND[self.train], y_N[self.train])
            loss = log_loss(y_N[self.validation], model.predict_proba(self.x_ND[self.validation]))
            if loss < best:
                best, accuracy = loss, float(model.score(self.x_ND[self.test], y_N[self.test]))
        return accuracy


def speed(rows: int, width: int, repeats: int, spectrum: str) -> Result:
    """Labels fitted a second, and how far accuracies differ."""
    site = Site(rows, width, *SPECTRA[spectrum])
    what = "LogisticRegression (lbfgs, warm start), a fit per label and penalty"
    name = f"probes, {rows:,} x {width}, {len(CLASSES)} labels, {len(PENALTIES)} penalties, {spectrum}"
    result = side_by_side(name, len(CLASSES), "labels/s", site.ours, site.theirs, what, repeats)
    gaps = np.abs(np.subtract(site.found["ours"], site.found["theirs"]))
    accuracies = ", ".join(f"{one:.3f}" for one in site.found["ours"])
    print(f"accuracies {accuracies}; they differ by {gaps.max():.4f} at most", file=sys.stderr)
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    """The table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.probes", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--repeats", type=int, default=3)
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ConvergenceWarning)  # the loop may run into its limit: accuracies are compared
    with threadpool_limits(1):
        print(table([speed(chosen.rows, chosen.width, chosen.repeats, spectrum) for spectrum in SPECTRA]))


if __name__ == "__main__":
    main()
