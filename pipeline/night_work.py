"""A night's work, in whatever process it is done: the recipe's run, and what its record says of the night."""

import logging
import resource
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from pipeline import drift, ledger
from pipeline.ledger import FilesOf, JobDrift, Night
from pipeline.plan import CacheStep, JobStep, Step
from pipeline.recipe import Opened
from storage.errors import GarnerError, InputError
from storage.lake import Lake
from storage.runs import StepRun
from storage.value import Value

log = logging.getLogger(__name__)

INTERRUPTED = "it was interrupted"
_NAMES = 50
"""File names that a record keeps for each cache."""


class Order(Value):
    """One night to be worked; small enough to send."""

    recipe: str
    """Path of the file."""
    settings: tuple[str, ...]
    run: str
    """Name of the run's folder."""
    night: Night
    """What is known of it before it begins."""
    last: dict[str, str] = {}
    """Artifacts of the last good night, by job."""
    hidden: tuple[str, ...] = ()
    """Environment variables that are none of its business."""


class Ended(Value):
    """How the work ended."""

    error: str = ""
    """Empty if all went well."""
    wrong_input: bool = False
    """Whether the error is the user's to mend."""
    interrupted: bool = False
    """Whether a person or the machine's keeper stopped it."""
    log: str = ""
    """The end of what a process said that may have left no log."""


def attempt(order: Order, stopped: Callable[[], str] = str) -> Ended:
    """Run the recipe; `stopped` says why, once the work was asked to stop."""
    try:
        _perform(order, stopped)
    except GarnerError as error:
        return Ended(error=str(error), wrong_input=isinstance(error, InputError))
    except KeyboardInterrupt:
        return Ended(error=stopped() or INTERRUPTED, interrupted=not stopped())
    except Exception as error:
        log.exception("the night failed")
        return Ended(error=f"{type(error).__name__}: {error}")
    return Ended()


def _perform(order: Order, stopped: Callable[[], str]) -> None:
    from pipeline.progress import Progress
    from pipeline.recipe import read
    from pipeline.run import run

    opened = read(order.recipe, order.settings)
    run(opened, Progress(), _Told(order, opened, stopped))


class _Told:
    """What the run's record is told of the night."""

    def __init__(self, order: Order, opened: Opened, stopped: Callable[[], str]) -> None:
        self._order, self._opened, self._stopped = order, opened, stopped

    @property
    def run_id(self) -> str:
        """Name of the run's folder."""
        return self._order.run

    def told(self, steps: Sequence[Step], done: Sequence[StepRun]) -> Mapping[str, Any]:
        """Files, drift and limits; what cannot be told fails the night's limits, and never its record."""
        problems: tuple[str, ...] = ()
        try:
            drifts = self._drifts(steps, done)
        except Exception as error:
            log.warning("the artifacts cannot be compared", exc_info=error)
            drifts, problems = {}, (f"the artifacts cannot be compared: {error}",)
        schedule = self._opened.recipe.schedule
        limits = schedule.limits if schedule else ()
        usage = resource.getrusage(resource.RUSAGE_SELF)
        night = msgspec.structs.replace(
            self._order.night,
            files={step.name: _files(step) for step in steps if isinstance(step, CacheStep)},
            jobs=drifts,
            breaches=(*problems, *drift.breaches(limits, drifts)),
            stopped=self._stopped(),
            cpu_seconds=usage.ru_utime + usage.ru_stime,
            max_rss=usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        )
        return ledger.plain(night)

    def _drifts(self, steps: Sequence[Step], done: Sequence[StepRun]) -> dict[str, JobDrift]:
        lake, last = Lake(self._opened.lake), self._order.last
        finished = {step.artifact for step in steps if isinstance(step, JobStep) and step.done}
        finished |= {step.folder for step in done if not step.error}
        return {
            step.name: drift.compare(lake, step, last.get(step.name, ""))
            for step in steps
            if isinstance(step, JobStep) and step.artifact in finished
        }


def _files(step: CacheStep) -> FilesOf:
    facts = step.facts
    names = [file.path for file in facts.new_files] + list(facts.changed)
    return FilesOf(new=len(facts.new_files), changed=len(facts.changed), gone=facts.gone, names=tuple(names[:_NAMES]))
