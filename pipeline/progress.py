"""Progress as a person wants it: one live line per step in a terminal, plain lines in a log."""

import logging
import sys
import time
from collections.abc import Callable
from typing import Protocol

from storage.runs import Progress as Told

log = logging.getLogger(__name__)

_EVERY = 10.0
"""Seconds between plain lines."""


class Meter(Protocol):
    """One step under way."""

    def advance(self, rows: int, forward_tokens: int = 0) -> None: ...
    def close(self, note: str = "") -> None: ...


class Progress:
    """Makes a meter per step: live where standard error is a terminal, plain lines elsewhere."""

    def __init__(self, live: bool | None = None) -> None:
        self._live = sys.stderr.isatty() if live is None else live
        self.forward_tokens = 0
        """Tokens that models ran over, in all steps."""
        self.listener: Callable[[Told], object] | None = None
        """Is told how far the step is, whenever that changes."""

    def meter(self, name: str, total: int, unit: str) -> Meter:
        """A meter of `total` `unit`s; close it when the step ends."""
        shown = _LiveMeter(self, name, total, unit) if self._live else _PlainMeter(self, name, total, unit)
        return shown if self.listener is None else _ToldMeter(shown, self.listener, name, total, unit)


class _ToldMeter:
    """Another meter, and whoever listens beside it."""

    def __init__(self, meter: Meter, listener: Callable[[Told], object], name: str, total: int, unit: str) -> None:
        self._meter, self._listener = meter, listener
        self._name, self._total, self._unit = name, total, unit
        self._done, self._forward, self._started = 0, 0, time.monotonic()
        self._tell()

    def advance(self, rows: int, forward_tokens: int = 0) -> None:
        """Count what came, in both."""
        self._done += rows
        self._forward += forward_tokens
        self._meter.advance(rows, forward_tokens)
        self._tell()

    def close(self, note: str = "") -> None:
        """End the other; what was told last stands."""
        self._meter.close(note)

    def _tell(self) -> None:
        seconds = time.monotonic() - self._started
        self._listener(
            Told(
                step=self._name,
                done=self._done,
                total=self._total,
                unit=self._unit,
                tokens_per_second=self._forward / max(seconds, 1e-9),
                seconds=seconds,
            )
        )


class _PlainMeter:
    def __init__(self, progress: Progress, name: str, total: int, unit: str) -> None:
        self._progress, self._name, self._total, self._unit = progress, name, total, unit
        self._done, self._forward = 0, 0
        self._started = self._said = time.monotonic()

    def advance(self, rows: int, forward_tokens: int = 0) -> None:
        """Count what came; say so at most every few seconds."""
        self._done += rows
        self._forward += forward_tokens
        self._progress.forward_tokens += forward_tokens
        if time.monotonic() - self._said > _EVERY:
            self._said = time.monotonic()
            self._say(f"eta {eta(self._seconds, self._done, self._total)}")

    def close(self, note: str = "") -> None:
        """The step's last line."""
        self._say(f"in {self._seconds:.1f} s{'; ' + note if note else ''}")

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self._started

    def _say(self, rest: str) -> None:
        rate = f", {self._forward / max(self._seconds, 1e-9):,.0f} tokens/s" if self._forward else ""
        log.info("%s: %s of %s %s%s, %s", self._name, f"{self._done:,}", f"{self._total:,}", self._unit, rate, rest)


class _LiveMeter:
    def __init__(self, progress: Progress, name: str, total: int, unit: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self._progress, self._name, self._unit = progress, name, unit
        self._started, self._forward = time.monotonic(), 0
        self._bar = Bar(
            TextColumn("{task.description:<28}"),
            BarColumn(),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f} {task.fields[unit]} {task.fields[rate]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task(name, total=total, unit=unit, rate="")
        self._bar.start()

    def advance(self, rows: int, forward_tokens: int = 0) -> None:
        """Move the bar."""
        self._forward += forward_tokens
        self._progress.forward_tokens += forward_tokens
        seconds = max(time.monotonic() - self._started, 1e-9)
        rate = f"{self._forward / seconds:,.0f} tokens/s" if self._forward else ""
        self._bar.update(self._task, advance=rows, rate=rate)

    def close(self, note: str = "") -> None:
        """Leave the bar as it stands, with a last word."""
        self._bar.update(self._task, rate=note)
        self._bar.stop()


def eta(seconds: float, done: int, total: int) -> str:
    """Time left at the pace so far."""
    if not done:
        return "unknown"
    left = int(seconds * (total - done) / done)
    return f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02}"
