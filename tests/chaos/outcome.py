"""What came of a scenario, and the table of all."""

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


@dataclass
class Outcome:
    """Counts of one scenario as it goes on."""

    scenario: str
    stages: Counter[str] = field(default_factory=Counter)
    """Kills, by what was in the lake or on the wire."""
    runs: int = 0
    """Drivers that were started to be disturbed."""
    problems: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    """Lakes to look at."""
    note: str = ""
    started: float = field(default_factory=time.monotonic)
    seconds: float = 0.0

    @property
    def kills(self) -> int:
        """Processes killed while there was something left to make."""
        return sum(count for stage, count in self.stages.items() if stage != "end")

    def judge(self, where: str, problems: Sequence[str]) -> bool:
        """Note what is wrong with a lake; whether nothing is."""
        self.problems += [f"{where}: {problem}" for problem in problems]
        self.kept += [where] if problems else []
        return not problems

    def close(self) -> "Outcome":
        """The time it took is now."""
        self.seconds = time.monotonic() - self.started
        return self


def table(outcomes: Iterable[Outcome]) -> str:
    """A line per scenario, then what is wrong."""
    outcomes = list(outcomes)
    lines = [f"{'scenario':<44} {'kills':>5} {'runs':>5} {'s':>5}  verdict"]
    for one in outcomes:
        verdict = "DIFFERS" if one.problems else "same"
        lines.append(
            f"{one.scenario:<44} {one.kills:>5} {one.runs:>5} {one.seconds:>5.0f}  {verdict} {one.note}".rstrip()
        )
        if one.stages:
            lines.append("    " + ", ".join(f"{stage} {count}" for stage, count in one.stages.most_common()))
    kills, runs, seconds = (sum(getattr(one, what) for one in outcomes) for what in ("kills", "runs", "seconds"))
    lines.append(f"{'all':<44} {kills:>5} {runs:>5} {seconds:>5.0f}")
    for one in outcomes:
        lines += [f"{one.scenario}: {problem}" for problem in one.problems]
        lines += [f"{one.scenario}: kept {path}" for path in one.kept]
    return "\n".join(lines)
