"""Studies over caches: a module here is a job; its file name is its kind.

A job module has `Config(Value)`, `reads(config)` (which caches and sites it needs, so that planning can refuse what is
not there), and `run(config, ctx) -> Report`. What jobs share lives in `jobs.core`.
"""

import importlib
import pkgutil
from typing import Protocol, cast

from jobs.core.context import Context, Read, Report
from storage.errors import InputError
from storage.value import Value


class Job(Protocol):
    """What a job module looks like from outside."""

    Config: type[Value]

    def reads(self, config: Value) -> tuple[Read, ...]: ...

    def run(self, config: Value, ctx: Context) -> Report: ...


def names() -> tuple[str, ...]:
    """Every job kind, found without importing any."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "core"))


def load(kind: str) -> Job:
    """The job module of that kind; `InputError` lists the kinds there are."""
    if kind not in names():
        raise InputError(f"unknown job kind {kind!r}: the kinds are {', '.join(names())}")
    return cast(Job, importlib.import_module(f"jobs.{kind}"))
