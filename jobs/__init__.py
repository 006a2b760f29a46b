"""Studies over caches: a module here is a job; its file name is its kind.

A job module has `Config(Value)`, `reads(config)` (which caches and sites it needs, so that planning can refuse what is
not there), and `run(config, ctx) -> Report`. One that runs live models names, in `models(config)`, the caches that they
made. One that stands on what other jobs of the recipe leave names those in `artifacts(config)`; it runs behind them.
One that reads files of others names them in `files(config)`: what is in them is part of its artifact's address.
One that can do something else with new segments than to see all, or the newest alone, says so in `REFITS`. What jobs
share lives in `jobs.core`.
"""

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, cast

from jobs.core.context import Context, Read, Report
from storage.errors import InputError
from storage.value import Value, convert

Refit = Literal["all", "newest", "continue"]
"""What a job sees when its caches have grown: every segment, the newest alone, or those that its last artifact did not
see, beside that artifact."""
REFITS: tuple[Refit, ...] = ("all", "newest")
"""What every job can do."""


class Job(Protocol):
    """What a job module looks like from outside."""

    Config: type[Value]

    def reads(self, config: Value) -> tuple[Read, ...]: ...

    def run(self, config: Value, ctx: Context) -> Report: ...

    def run_all(self, configs: Sequence[Value], contexts: Sequence[Context]) -> list[Report]:
        """Only of a job that has `together(config)`: studies for which it gives the same, from one read."""


def names() -> tuple[str, ...]:
    """Every job kind, found without importing any."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "core"))


def load(kind: str) -> Job:
    """The job module of that kind; `InputError` lists the kinds there are."""
    if kind not in names():
        raise InputError(f"unknown job kind {kind!r}: the kinds are {', '.join(names())}")
    return cast(Job, importlib.import_module(f"jobs.{kind}"))


def together(kind: str, config: Mapping[str, Any]) -> bytes | None:
    """What studies of that kind must have in common to be run together; none if they never are."""
    module = load(kind)
    key = getattr(module, "together", None)
    return None if key is None else key(convert(config, module.Config, f"a job of kind {kind}"))


def refits(job: Job) -> tuple[Refit, ...]:
    """What the job module can do with new segments."""
    return cast(tuple[Refit, ...], getattr(job, "REFITS", REFITS))
