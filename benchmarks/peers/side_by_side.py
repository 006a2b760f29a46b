"""Every system in turn, round after round, so that what else the machine does falls on all of them."""

import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.peers import pages
from benchmarks.peers.material import Material
from benchmarks.peers.session import Session
from benchmarks.peers.table import Answer, Line

HARVESTS, READS = 3, 5
"""Rounds of each; a system that harvests while it is read is read as often as it would be harvested."""
EPOCHS = 3
"""Of a warm read; a cold one is an epoch."""


@dataclass(frozen=True)
class System:
    """What takes part, and in what."""

    name: str
    """Of its script."""
    title: str
    python: Path
    fills: Literal["harvest", "write", "nothing"]
    """Whether it harvests, is given the rows to keep, or keeps none."""
    reads: bool = True
    error: str = ""
    """Why it can't."""


class Bench:
    """Asks, and keeps the answers; a system that fails once is not asked again, and its error is kept instead."""

    def __init__(self, material: Material, folder: Path, systems: Sequence[System]) -> None:
        self._material, self._folder, self._systems = material, folder, systems
        self._answers: dict[tuple[str, str], list[Answer]] = defaultdict(list)
        self._errors = {system.name: system.error for system in systems if system.error}

    def harvest(self) -> None:
        """Fill every store; reading starts in new processes, whose memory knows nothing of it."""
        with self._sessions([one for one in self._systems if one.fills != "nothing"]) as sessions:
            for number in range(HARVESTS):
                for system, session in sessions:
                    if system.fills == "harvest" or number == 0:
                        self._ask(session, system.fills, "harvest")

    def read(self) -> None:
        """One epoch that does not count, the rounds, and one more epoch to see which rows come."""
        with self._sessions([one for one in self._systems if one.reads]) as sessions:
            for number in range(READS + 1):
                for system, session in sessions:
                    if system.fills != "nothing":
                        self._ask(session, "cold" if number else "first", "epoch", cold=True)
                        self._ask(session, "warm" if number else "first", "epoch", epochs=EPOCHS)
                    elif 0 < number <= HARVESTS:
                        self._ask(session, "warm", "epoch")
            for _, session in sessions:
                self._ask(session, "check", "check")

    def lines(self) -> list[Line]:
        """One for every system."""
        return [self.line(system) for system in self._systems]

    def line(self, system: System) -> Line:
        """What is known of it."""
        rows, d = self._material.truth.shape
        check = self._answers[system.name, "check"]
        return Line(
            title=system.title,
            row_bytes=d * self._material.truth.itemsize,
            size=pages.size(self._folder / "stores" / system.name) if system.fills != "nothing" else 0,
            rows=rows,
            harvests=tuple(self._answers[system.name, "harvest"]),
            warm=tuple(self._answers[system.name, "warm"]),
            cold=tuple(self._answers[system.name, "cold"]),
            check=check[0] if check else None,
            error=self._errors.get(system.name, ""),
        )

    @contextmanager
    def _sessions(self, systems: Sequence[System]) -> Iterator[list[tuple[System, Session]]]:
        with ExitStack() as stack:
            yield [
                (one, stack.enter_context(Session(one.name, one.python, self._material, self._folder)))
                for one in systems
                if one.name not in self._errors
            ]

    def _ask(self, session: Session, kept_as: str, what: str, **options: Any) -> None:
        if session.name in self._errors:
            return
        print(f"{session.name}: {kept_as} ...", file=sys.stderr, flush=True)
        try:
            self._answers[session.name, kept_as].append(session.ask(what, **options))
        except RuntimeError as error:
            self._errors[session.name] = str(error)
