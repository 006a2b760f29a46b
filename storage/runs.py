"""`runs/<date>-<id>/`: what each run did, who started it, how far it is, and what it cost."""

from contextlib import suppress
from typing import Any, TypeVar

import msgspec

from storage.errors import InputError
from storage.url import Folder
from storage.value import Value, checked_name, decode, decode_signed, signed

T = TypeVar("T")

_TOLD = "attempt-progress.json"


class Start(Value):
    """`started.json`: written before anything is done."""

    id: str
    """The folder's name."""
    recipe: str
    """The recipe's title."""
    digest: str
    """Identity of the recipe, settings applied, without where it runs."""
    owner: str
    """User and host."""
    time: str
    """UTC, ISO 8601, by the owner's clock."""
    versions: dict[str, str]


class StepRun(Value):
    """What one step of a run came to."""

    name: str
    """In the recipe."""
    kind: str
    """`cache`, or the job's kind."""
    folder: str
    """Of the cache or artifact in the lake."""
    seconds: float
    """Wall time."""
    segments: tuple[int, ...] = ()
    """Numbers of the segments of which something was harvested."""
    files: int = 0
    """Of these segments."""
    units: int = 0
    """Units that were harvested."""
    rows: int = 0
    """Rows that were marked."""
    tokens: int = 0
    """Tokens that went through the model."""
    workers: int = 0
    """Workers that had a unit."""
    harvest: float = 0.0
    """Wall time of harvesting alone."""
    busy: float = 0.0
    """Seconds that workers spent on units, summed over workers."""
    timings: dict[str, float] = {}
    """Seconds by what for (tokenise, read, forward, copy, encode, write), summed over workers."""
    bytes: int = 0
    """Written into the lake."""
    device: str = "cpu"
    losses: dict[str, int] = {}
    """Attempts that machines spoilt, by reason."""
    headline: str = ""
    """Of a job's report."""
    error: str = ""

    @property
    def utilisation(self) -> float:
        """Share of the workers' time, while there was something to harvest, that was spent on units."""
        return self.busy / (self.harvest * self.workers) if self.workers and self.harvest else 0.0


class RunRecord(Value):
    """`record.json`: written last, whether the run ended well or not."""

    start: Start
    status: str
    """`done`, `failed`, or `stopped`."""
    seconds: float
    steps: tuple[StepRun, ...]
    error: str = ""
    cost: dict[str, float] = {}
    """By the recipe's price table, by what for: `workers`, `storage`; empty without one."""
    night: dict[str, Any] = {}
    """What a scheduled run adds; empty for others."""


class Progress(Value):
    """`progress.json`: replaced every few seconds while a run is under way; a derived page, no record."""

    step: str
    """What is under way."""
    done: int
    total: int
    unit: str
    """What is counted: rows, parts, jobs."""
    tokens_per_second: float
    seconds: float
    """Since the step began."""
    note: str = ""
    """What is known of it by now: a job's latest numbers."""


def tell(artifact: Folder, progress: Progress) -> None:
    """Say how far a job is, in the folder of the artifact that it will leave."""
    artifact.replace(_TOLD, msgspec.json.encode(progress))


def told(artifact: Folder) -> Progress | None:
    """What the job said last; none if it said nothing, or is done."""
    data = artifact.find(_TOLD)
    with suppress(msgspec.DecodeError):  # it is just being replaced
        return msgspec.json.decode(data, type=Progress) if data else None
    return None


def forget(artifact: Folder) -> None:
    """The job is done."""
    artifact.remove(_TOLD)


class Run:
    """One run's folder, to be read."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder

    @property
    def begun(self) -> bool:
        """Whether the folder is a run's; one that is being removed is not."""
        return self.folder.exists("started.json")

    @property
    def start(self) -> Start:
        """Who started what; `InputError` if there is no such run."""
        found = self._find("started.json", Start)
        if found is None:
            raise InputError(f"{self.folder} is no run: it has no started.json")
        return found

    @property
    def record(self) -> RunRecord | None:
        """None while it is under way, or if it was killed."""
        return self._find("record.json", RunRecord)

    @property
    def progress(self) -> Progress | None:
        """How far it is, if it said so yet."""
        data = self.folder.find("progress.json")
        try:
            return None if not data else decode(data, Progress, str(self.folder / "progress.json"))
        except InputError:  # read while it was being replaced
            return None

    def _find(self, name: str, kind: type[T]) -> T | None:
        data = self.folder.find(name)
        return None if data is None else decode_signed(data, kind, str(self.folder / name))


def begin(lake: Folder, start: Start) -> Folder:
    """The folder of a new run, with its `started.json`."""
    folder = lake / f"runs/{checked_name(start.id, 'a run')}"
    if not folder.create("started.json", signed(start)):
        raise InputError(f"{folder} is there already: give the run another id")
    return folder


def end(folder: Folder, record: RunRecord) -> None:
    """Write the record; the first one stands."""
    folder.create("record.json", signed(record))


def runs(lake: Folder) -> tuple[Run, ...]:
    """Every run, oldest first by date."""
    return tuple(Run(lake / f"runs/{name}") for name in lake.names("runs"))
