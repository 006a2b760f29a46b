"""Side-by-side timing: both sides alternate, so that what else the machine does falls on both."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Result:
    """One line of the table."""

    name: str
    ours: float
    baseline: float
    unit: str
    what: str
    """What the baseline is."""
    repeats: int

    @property
    def ratio(self) -> float:
        """Ours over the baseline."""
        return self.ours / self.baseline


def own_memory(field: str) -> float:
    """A figure of /proc/self/status in MiB; `ru_maxrss` will not do, for it survives exec: a child has its parent's."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"this system's /proc/self/status has no {field}")


def side_by_side(
    name: str,
    work: float,
    unit: str,
    ours: Callable[[], None],
    baseline: Callable[[], None],
    what: str,
    repeats: int = 5,
) -> Result:
    """Median rates of both sides over `repeats` alternating rounds, after one round that does not count."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for round_number in range(repeats + 1):
        for side, act in enumerate((ours, baseline)):
            started = time.perf_counter()
            act()
            if round_number:
                seconds[side].append(time.perf_counter() - started)
    rates = [work / statistics.median(one) for one in seconds]
    return Result(name=name, ours=rates[0], baseline=rates[1], unit=unit, what=what, repeats=repeats)


def table(results: list[Result]) -> str:
    """The results as a Markdown table."""
    lines = ["| measured | garner | baseline | ratio | baseline is |", "| --- | ---: | ---: | ---: | --- |"]
    lines += [
        f"| {one.name} | {one.ours:,.1f} {one.unit} | {one.baseline:,.1f} {one.unit} | {one.ratio:.2f} | {one.what} |"
        for one in results
    ]
    return "\n".join(lines)
