"""What was measured, as two Markdown tables: medians, ratios, and an error in place of a number."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Answer = Mapping[str, Any]
"""What a worker said."""

_HARVEST = ("harvest, synced", "tokens/s", "garner is", "on disk, bytes/row", "largest error")
_READ = (
    "shuffled read", "warm rows/s", "MB/s", "garner is", "cold rows/s", "garner is", "first batch, warm / cold",
    "own memory, peak (before)", "different rows", "largest error",
)  # fmt: skip
_NONE = "-"


@dataclass(frozen=True)
class Line:
    """All that is known of one system; empty where it does not do such a thing."""

    title: str
    row_bytes: int = 0
    """Of a row in memory."""
    size: int = 0
    """Of the store, in bytes."""
    rows: int = 0
    """In the store."""
    harvests: tuple[Answer, ...] = ()
    warm: tuple[Answer, ...] = ()
    cold: tuple[Answer, ...] = ()
    check: Answer | None = None
    error: str = ""
    """Why something is missing."""


def rate(answers: Sequence[Answer]) -> float:
    """Median rows a second, 0 without answers."""
    return statistics.median(one["rows"] / one["seconds"] for one in answers) if answers else 0.0


def harvest_table(lines: Sequence[Line], ours: Line) -> str:
    """Those that harvest, and what they left on the disk."""
    body = [
        (line.title, _number(rate(line.harvests)), _times(line.harvests, ours.harvests), _stored(line), _gap(line))
        for line in lines
        if line.harvests
    ]
    return _markdown(_HARVEST, body)


def read_table(lines: Sequence[Line], ours: Line) -> str:
    """Those that read, and those that should have."""
    return _markdown(_READ, [_read_cells(line, ours) for line in lines if line.warm or line.error])


def left_in_memory(lines: Sequence[Line]) -> float:
    """The largest share of a store that was in memory before a cold read."""
    return max((answer["held"] for line in lines for answer in line.cold), default=0.0)


def _read_cells(line: Line, ours: Line) -> tuple[str, ...]:
    if line.error:
        return line.title, f"not measured: {_plain(line.error)}", *[""] * (len(_READ) - 2)
    return (
        line.title,
        _number(rate(line.warm)),
        _number(rate(line.warm) * line.row_bytes / 1e6),
        _times(line.warm, ours.warm),
        _number(rate(line.cold)) if line.cold else _NONE,
        _times(line.cold, ours.cold),
        " / ".join(_first(answers) for answers in (line.warm, line.cold) if answers),
        _memory(line),
        _different(line),
        _gap(line),
    )


def _times(theirs: Sequence[Answer], ours: Sequence[Answer]) -> str:
    """How many times as fast garner is; less than 1 is a loss."""
    return f"{rate(ours) / rate(theirs):.2f}x" if theirs and ours else _NONE


def _first(answers: Sequence[Answer]) -> str:
    return f"{statistics.median(one['first'] for one in answers):.2f} s"


def _memory(line: Line) -> str:
    peak = max(one["memory"] for one in (*line.warm, *line.cold))
    return f"{peak:,.0f} MiB ({min(one['before'] for one in line.warm):,.0f})"


def _different(line: Line) -> str:
    """Of an epoch's worth of rows."""
    if line.check is None:
        return _NONE
    text = f"{line.check['unique']:,} of {line.check['delivered']:,}"
    return text + (f", {line.check['foreign']:,} unknown" if line.check["foreign"] else "")


def _gap(line: Line) -> str:
    return f"{line.check['gap']:.2g}" if line.check else _NONE


def _stored(line: Line) -> str:
    return _number(line.size / line.rows) if line.size else _NONE


def _plain(text: str) -> str:
    """What a cell can hold."""
    return " ".join(text.replace("|", "/").split())[:300]


def _number(value: float) -> str:
    return f"{value:,.0f}"


def _markdown(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *body))
