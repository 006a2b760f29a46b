"""A run's folder in the lake as it is written: who began what, how far it is, the log, and the record at the end."""

import logging
import time
import uuid
from collections import deque
from contextlib import suppress
from datetime import UTC, date, datetime
from typing import Any

import msgspec

from pipeline.logs import OURS, JsonFormatter
from pipeline.recipe import Opened
from storage import runs
from storage.artifact import versions
from storage.process import owner
from storage.runs import Progress, RunRecord, Start, StepRun
from storage.url import Folder
from storage.value import identity

log = logging.getLogger(__name__)

_EVERY = 5.0
"""Seconds between two writings of `progress.json`."""
_LINES = 20_000
"""Lines of the log that are kept, the last ones."""


class Journal:
    """What is written of one run; `end` it whatever happens."""

    def __init__(self, lake: Folder, opened: Opened, run_id: str = "") -> None:
        """`run_id` names the folder; one of today (UTC) is made up if it is not given."""
        self.start = begun(opened, run_id or new_id(datetime.now(UTC).date()))
        self.folder = runs.begin(lake, self.start)
        self.steps: list[StepRun] = []
        self.record: RunRecord | None = None
        self._began = time.monotonic()
        self._said = 0.0
        self._handler = _Kept()
        for package in OURS:
            logging.getLogger(package).addHandler(self._handler)

    def tell(self, progress: Progress) -> None:
        """Say how far the run is, now and then; a store that does not take it keeps no run from going on."""
        if time.monotonic() - self._said < _EVERY and progress.done:
            return
        self._said = time.monotonic()
        try:
            self.folder.replace("progress.json", msgspec.json.encode(progress))
        except Exception as error:
            log.warning("progress could not be written into %s: %s", self.folder, error)

    def end(self, status: str, error: str = "", **more: Any) -> None:
        """Write the log and the record; `more` are fields of `RunRecord`."""
        for package in OURS:
            logging.getLogger(package).removeHandler(self._handler)
        seconds = time.monotonic() - self._began
        record = RunRecord(
            start=self.start, status=status, error=error, seconds=seconds, steps=tuple(self.steps), **more
        )
        self.folder.create("log.jsonl", "".join(f"{line}\n" for line in self._handler.lines).encode())
        runs.end(self.folder, record)
        self.record = record
        with suppress(OSError):
            self.folder.remove("progress.json")


def new_id(day: date) -> str:
    """A name for the folder of a run of that day."""
    return f"{day}-{uuid.uuid4().hex[:8]}"


def begun(opened: Opened, run_id: str) -> Start:
    """What `started.json` says of a run of the recipe that begins now, here."""
    return Start(
        id=run_id,
        recipe=opened.title,
        digest=recipe_digest(opened),
        owner=owner(),
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=versions(),
    )


class _Kept(logging.Handler):
    """The last lines of the log, as JSON."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(JsonFormatter())
        self.lines: deque[str] = deque(maxlen=_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


def recipe_digest(opened: Opened) -> str:
    """Identity of what the recipe wants; where it runs and when is left out."""
    recipe = msgspec.to_builtins(opened.recipe, enc_hook=str)
    return identity({key: value for key, value in recipe.items() if key not in ("pool", "schedule", "prices")})
