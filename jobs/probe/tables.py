"""The tables of a probe study, a line per thing measured."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from jobs.core.splits import Split
from jobs.probe.judge import Probe
from jobs.probe.targets import Labels
from storage.site import Site


def metrics(probes: Sequence[Probe], intervals: Mapping[tuple[str, Site], tuple[float, float]]) -> pa.Table:
    """Every metric of every probe on test documents, with baseline, null and the headline's interval."""
    lines = []
    for probe in probes:
        for name, value in probe.metrics.items():
            low, high = intervals[probe.labels.name, probe.site] if name == probe.headline else (None, None)
            null, null_sd = probe.null.get(name, (None, None))
            lines.append(
                _key(probe)
                | {"metric": name, "value": value, "low": low, "high": high, "null": null, "null_sd": null_sd}
                | {"baseline": probe.baseline.get(name)}
            )
    types = dict.fromkeys(("value", "low", "high", "null", "null_sd", "baseline"), pa.float64())
    return _table(lines, {"site": pa.string(), "target": pa.string(), "metric": pa.string(), **types})


def probes(probes: Sequence[Probe]) -> pa.Table:
    """What was chosen on validation documents for each probe."""
    lines = [
        _key(probe) | {"penalty": probe.penalty, "temperature": probe.temperature, "validation": probe.validation}
        for probe in probes
    ]
    return pa.Table.from_pylist(lines)


def outputs(targets: Sequence[Labels], parts: Split) -> pa.Table:
    """The outputs of each target in the order of its directions, and the examples of each on every side."""
    lines = []
    for labels in targets:
        for number, name in enumerate(labels.classes or ("",)):
            mine_N = labels.known_N & ((labels.y_N == number) if labels.classes else True)
            sides = {"train": parts.train, "validation": parts.validation, "test": parts.test}
            counts = {side: int((mine_N & mask).sum()) for side, mask in sides.items()}
            lines.append({"target": labels.name, "output": number, "class": name, **counts})
    return pa.Table.from_pylist(lines)


def calibration(probes: Sequence[Probe]) -> pa.Table:
    """Reliability curves, as fitted and after the temperature."""
    lines = [
        _key(probe) | {"calibrated": calibrated, "confidence": confidence, "accuracy": accuracy, "examples": int(n)}
        for probe in probes
        for calibrated, curve in zip((False, True), probe.reliability or (), strict=False)
        for confidence, accuracy, n in zip(*(column.tolist() for column in curve), strict=True)
    ]
    return pa.Table.from_pylist(lines)


def confusion(probes: Sequence[Probe]) -> pa.Table:
    """How many test examples of each class were taken for each class."""
    lines = [
        _key(probe) | {"label": probe.labels.classes[a], "answer": probe.labels.classes[b], "examples": int(n)}
        for probe in probes
        if probe.confusion_CC is not None
        for (a, b), n in np.ndenumerate(probe.confusion_CC)
    ]
    return pa.Table.from_pylist(lines)


def positions(probes: Sequence[Probe], edges: np.ndarray) -> pa.Table:
    """The headline metric by position in the sequence, from `first` to before `stop`, in tokens."""
    lines = [
        _key(probe)
        | {"first": int(edges[q]), "stop": int(edges[q + 1]), "metric": probe.headline, "value": value, "examples": n}
        for probe in probes
        for q, value, n in probe.by_position
    ]
    return pa.Table.from_pylist(lines)


def _key(probe: Probe) -> dict[str, Any]:
    return {"site": str(probe.site), "target": probe.labels.name}


def _table(lines: list[dict[str, Any]], types: dict[str, pa.DataType]) -> pa.Table:
    return pa.Table.from_pylist(lines, schema=pa.schema(list(types.items())))
