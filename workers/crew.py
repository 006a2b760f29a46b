"""The workers of one map: which should be there, which are on their way, and which were lost. Knows no Ray."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from storage.value import Value

Clock = Callable[[], float]


class Limits(Value):
    """When to give up, how long to wait. Seconds, where nothing else is said."""

    timeout: float = 7200
    """What one task may take."""
    attempts: int = 3
    """Workers that one task may cost; with the last of them the run ends."""
    row: int = 4
    """Generations of workers lost with no task done in between that end the run."""
    rest: float = 1
    """Before a lost worker is replaced; doubled with every further loss in its place."""
    longest_rest: float = 60
    grace: float = 10
    """In which a worker that can't be reached must answer before it is given up."""
    slow: float = 30
    """A task is never thought slow before."""
    slow_factor: float = 4
    """Times the 95th percentile of the last durations, after which a task is slow."""
    look: float = 10
    """Between looks at which nodes there are."""
    complaint: float = 60
    """Without a worker, before the log says what is waited for, and again."""


LIMITS = Limits()


@dataclass(eq=False, slots=True)
class Call:
    """A task sent to a worker."""

    worker: "Worker"
    task: int
    sent: float
    began: float | None
    """None while it stands behind another task of the same worker."""


@dataclass(eq=False, slots=True)
class Worker:
    """One worker, from when it is asked for to when it is lost or sent away."""

    group: int
    faults: int
    """Losses in a row in its place before it."""
    row: int
    """Generations lost in a row when it was asked for."""
    state: Literal["starting", "building", "open", "suspect"] = "starting"
    since: float = 0.0
    """When that state began."""
    name: str = ""
    """Node and process, once known."""
    calls: list[Call] = field(default_factory=list)
    """What it has to do, in the order it was sent."""


@dataclass(eq=False, slots=True)
class _Rest:
    """A place whose worker was lost, and that gets a new one later."""

    group: int
    faults: int
    until: float


class Crew:
    """Keeps the number of workers at what is wanted, with longer and longer rests where they keep dying."""

    def __init__(self, limits: Limits, clock: Clock) -> None:
        self._limits, self._clock = limits, clock
        self._resting: list[_Rest] = []
        self._row = 0
        self.workers: dict[Worker, None] = {}
        """Asked for, and neither lost nor sent away."""

    def resize(self, wanted: Sequence[int], most: int) -> None:
        """Let there be `wanted` workers of each group, earlier groups first, and no more than `most` in all."""
        for group, target in enumerate(wanted):
            there = sum(worker.group == group for worker in self.workers)
            resting = [rest for rest in self._resting if rest.group == group]
            for rest in resting[max(target - there, 0) :]:
                self._resting.remove(rest)
            missing = target - there - len(resting)
            spare = most - len(self.workers) - len(self._resting)
            self._resting += [_Rest(group, 0, 0.0) for _ in range(min(missing, spare))]

    def due(self) -> list[Worker]:
        """Workers to be started now."""
        now = self._clock()
        due = [rest for rest in self._resting if rest.until <= now]
        self._resting = [rest for rest in self._resting if rest.until > now]
        started = [Worker(rest.group, rest.faults, self._row, since=now) for rest in due]
        self.workers.update(dict.fromkeys(started))
        return started

    def enter(self, worker: Worker, state: Literal["building", "open", "suspect"]) -> None:
        worker.state, worker.since = state, self._clock()

    def succeed(self, worker: Worker) -> None:
        """It ended a task: what was lost before is no longer in a row."""
        worker.faults = self._row = 0

    def lose(self, worker: Worker, counts: bool) -> int:
        """Its place gets another after a rest; how many generations were lost in a row by now.

        Workers lost together, such as those of one node, are one generation: only a loss among those that were
        asked for since adds to the count.
        """
        del self.workers[worker]
        faults = worker.faults + 1 if counts else 0
        if counts:
            self._row = max(self._row, min(worker.row, self._row) + 1)
        self._resting.append(_Rest(worker.group, faults, self._clock() + self._rest(faults)))
        return self._row

    def trim(self, most: int) -> list[Worker]:
        """Workers sent away because there is no work left for them: first those that are not there yet."""
        excess = len(self.workers) + len(self._resting) - most
        if excess <= 0:
            return []
        excess -= len(self._resting)
        self._resting = self._resting[: max(-excess, 0)]
        order = ("starting", "building", "open")
        idle = [worker for worker in self.workers if not worker.calls and worker.state in order]
        away = sorted(idle, key=lambda worker: order.index(worker.state))[: max(excess, 0)]
        for worker in away:
            del self.workers[worker]
        return away

    def _rest(self, faults: int) -> float:
        doubled = self._limits.rest * 2.0 ** min(faults - 1, 30)
        return min(doubled, self._limits.longest_rest) if faults else 0.0
