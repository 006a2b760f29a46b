"""`[schedule]`: when a recipe runs by itself, how long it may take, and what of its results is a reason to complain."""

import os
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, Self
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from storage.advice import suggestion
from storage.duration import Duration
from storage.errors import InputError
from storage.value import Value, checked_name

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_SPANS = (timedelta(days=2), timedelta(days=62), timedelta(days=800), timedelta(days=366 * 51))
"""How far back the latest fire time is looked for, in turn."""


class Cron:
    """A cron expression of five fields that fires at some time; a plain class, so that a recipe shows one string."""

    def __init__(self, text: str) -> None:
        self.text: Final = text

    def __str__(self) -> str:
        return self.text

    @classmethod
    def parse(cls, text: str) -> Self:
        """`0 2 * * *`: minute, hour, day of the month, month, day of the week."""
        from cronsim import CronSim, CronSimError

        if len(text.split()) != 5:
            raise InputError(f'{text!r} has {len(text.split())} fields: wanted five, for instance "0 2 * * *"')
        try:
            next(CronSim(text, _EPOCH))
        except CronSimError as error:
            raise InputError(
                f'{text!r} is no cron expression that ever fires ({error}): write one such as "0 2 * * *"'
            ) from error
        except StopIteration as error:
            raise InputError(f'{text!r} never fires: no such day comes in 50 years; write "0 2 * * *"') from error
        return cls(text)

    def after(self, moment: datetime, zone: ZoneInfo) -> Iterator[datetime]:
        """Fire times later than `moment`, UTC, in order; a local time that a clock change skips fires right after it,
        and one that comes twice fires the first time."""
        from cronsim import CronSim

        last = moment
        for fire in CronSim(self.text, moment.astimezone(zone)):
            if (fire := fire.astimezone(UTC)) > last:
                last = fire
                yield fire


class Zone:
    """A time zone by its IANA name."""

    def __init__(self, name: str) -> None:
        self.name: Final = name

    def __str__(self) -> str:
        return self.name

    @classmethod
    def parse(cls, text: str) -> Self:
        """`Europe/Zurich`"""
        try:
            ZoneInfo(text)
        except (KeyError, ValueError, OSError) as error:
            raise InputError(f'{text!r} is no time zone known here: write one such as "Europe/Zurich"') from error
        return cls(text)

    @property
    def info(self) -> ZoneInfo:
        return ZoneInfo(self.name)


class Webhook:
    """Where alerts are posted. The address is a secret: nothing shows more of it than its host."""

    def __init__(self, text: str) -> None:
        self._text: Final = text

    def __str__(self) -> str:
        return self._text if self.variable else urlsplit(self._text).hostname or ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """`$NAME`, an environment variable that holds the address, or the https address itself."""
        named = text.startswith("$") and text[1:].isidentifier()
        if not named and not (text.startswith("https://") and urlsplit(text).hostname):
            raise InputError(
                'wanted "$NAME", the name of an environment variable that holds the address, or an https:// address'
            )
        return cls(text)

    @property
    def variable(self) -> str:
        """The environment variable that holds the address; "" where the recipe itself does."""
        return self._text[1:] if self._text.startswith("$") else ""

    @property
    def url(self) -> str:
        """The address; empty where the environment variable is not set."""
        return os.environ.get(self.variable, "") if self.variable else self._text


class Limit(Value):
    """`[[schedule.limits]]`: how far a metric may go before the night complains."""

    job: str
    """A name under [jobs]; one with a sweep means every job of it."""
    metric: str
    max: float | None = None
    min: float | None = None
    rise: float | None = None
    """Most that it may have grown since the last artifact of the same series."""
    fall: float | None = None
    """Most that it may have shrunk."""

    def __post_init__(self) -> None:
        if self.max is self.min is self.rise is self.fall is None:
            raise ValueError("a limit needs at least one of max, min, rise and fall")
        for name in ("rise", "fall"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name} is how far it may go, 0 or more, found {getattr(self, name)}")


class Alerts(Value):
    """`[schedule.alerts]`: who is told."""

    webhook: Webhook | None = None
    """JSON is posted to it."""
    command: tuple[str, ...] = ()
    """A program and its arguments; the same JSON is its input."""
    on: Literal["failure", "always"] = "failure"
    """A night that failed or broke a limit, or every night."""


class ScheduleTable(Value):
    """`[schedule]`; never part of any identity."""

    cron: Cron
    """Five fields: minute, hour, day of the month, month, day of the week."""
    zone: Zone = Zone("UTC")
    """In which the fields are read."""
    deadline: Duration | None = None
    """Most that a night may take; then it is stopped, what is finished stays, and the next goes on from there."""
    retention: Duration | None = None
    """Folders of nights older than that are removed at the end of a good one; kept for ever if not given."""
    changed: Literal["refuse", "keep"] = "refuse"
    """A file that changed after it was taken fails the night, or is passed over and named."""
    name: str = ""
    """What the lease and the ledger go by; the recipe's title if not given."""
    limits: tuple[Limit, ...] = ()
    alerts: Alerts = Alerts()

    def __post_init__(self) -> None:
        if self.name:
            checked_name(self.name, "the schedule")

    def latest(self, now: datetime) -> datetime | None:
        """The last fire time that is not later than `now`; None if there was none in 50 years."""
        return next((due[-1] for span in _SPANS if (due := self.due(now - span, now))), None)

    def due(self, last: datetime, now: datetime) -> tuple[datetime, ...]:
        """Fire times after `last` that are not later than `now`, UTC."""
        fires = []
        for fire in self.cron.after(last, self.zone.info):
            if fire > now:
                break
            fires.append(fire)
        return tuple(fires)

    def next(self, now: datetime) -> datetime:
        """The first fire time later than `now`."""
        return next(self.cron.after(now, self.zone.info))


def check_limits(schedule: ScheduleTable, jobs: Iterable[str]) -> None:
    """`InputError` if a limit names a job that the recipe lacks; `jobs` are names after sweeps."""
    have = list(jobs)
    for n, limit in enumerate(schedule.limits):
        if not any(of_job(limit.job, name) for name in have):
            raise InputError(
                f"schedule.limits[{n}].job = {limit.job!r}: there is no such job; {suggestion(limit.job, have)}"
            )


def of_job(named: str, job: str) -> bool:
    """Whether a limit on `named` is one on `job`, which may be one of its sweep."""
    return named in (job, job.partition("[")[0])
