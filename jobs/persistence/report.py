"""What a `persistence` job says it found."""

from collections.abc import Iterator, Sequence

import numpy as np

from jobs.core.context import Metric, Report
from jobs.persistence.cells import MEASURES, Cell, Control, Measure
from jobs.persistence.config import Config
from storage.site import Site

_ABOUT: dict[Measure, str] = {
    "pearson": "Pearson r of the cosines of all pairs of tokens",
    "cka": "linear CKA, debiased",
    "neighbours": "share of nearest neighbours that both have",
    "rotation": "R2 on held-out tokens of a rotation with one scale",
}
CONTROL: Control = "centred"
"""Whose numbers the report gives; the table has all."""


def report(config: Config, found: Sequence[Cell], notes: tuple[str, ...]) -> Report:
    """The pair at the bottom, the mean over pairs of equal relative depth, and the best pair."""
    pairs = matched(found)
    bottom, (mean, null) = _at(found, "pearson", *pairs[0]), _mean(found, "pearson", pairs)
    best = max((one for one in found if (one.measure, one.control) == ("pearson", CONTROL)), key=lambda one: one.value)
    headline = (
        f"{config.source} against {config.target}: r = {bottom.value:.2f} at {bottom.source} and {bottom.target}, "
        f"{mean:.2f} on average over {len(pairs)} pairs of sites of equal relative depth (permuted tokens {null:.2f}); "
        f"best {best.value:.2f} at {best.source} and {best.target}"
    )
    return Report(headline=headline, metrics=tuple(_metrics(found, pairs, best)), notes=(*_notes(config), *notes))


def matched(found: Sequence[Cell]) -> list[tuple[Site, Site]]:
    """Each site of the source with the target's at the nearest relative depth."""
    sources, targets = (sorted({getattr(cell, side) for cell in found}) for side in ("source", "target"))
    depths = np.linspace(0, 1, len(targets))
    return [
        (source, targets[int(np.abs(depths - at).argmin())])
        for source, at in zip(sources, np.linspace(0, 1, len(sources)), strict=True)
    ]


def _at(found: Sequence[Cell], measure: Measure, source: Site, target: Site) -> Cell:
    wanted = (source, target, measure, CONTROL)
    return next(one for one in found if (one.source, one.target, one.measure, one.control) == wanted)


def _mean(found: Sequence[Cell], measure: Measure, pairs: Sequence[tuple[Site, Site]]) -> tuple[float, float]:
    mine = [_at(found, measure, *pair) for pair in pairs]
    return float(np.mean([one.value for one in mine])), float(np.mean([one.null for one in mine]))


def _metrics(found: Sequence[Cell], pairs: Sequence[tuple[Site, Site]], best: Cell) -> Iterator[Metric]:
    for measure in MEASURES:
        first, (mean, null) = _at(found, measure, *pairs[0]), _mean(found, measure, pairs)
        about = f"{_ABOUT[measure]}; centred; null: permuted tokens"
        yield Metric(name=f"{measure} at matched depth", value=mean, null=null, about=f"mean over pairs of {about}")
        where = f"at {first.source} and {first.target}"
        yield Metric(name=f"{measure} at the bottom", value=first.value, null=first.null, about=f"{about}; {where}")
    yield Metric(
        name="pearson at its best",
        value=best.value,
        null=best.null,
        about=f"at {best.source} and {best.target}, the best of all pairs of sites",
    )


def _notes(config: Config) -> Iterator[str]:
    yield (
        "Numbers here are of states about their mean; the table has them as they are and without their "
        f"{config.top} widest components as well. CKA is about the mean by definition: its raw value is the centred "
        "one."
    )
    yield (
        "That agreement persists through hidden states is a hypothesis: the abstract of the paper's last version no "
        "longer claims it."
    )
