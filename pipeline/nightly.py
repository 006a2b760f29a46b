"""`garner nightly`: run what is due of a recipe's schedule, once, whoever asks and however often.

The ledger says what is due and the lease who works on it; both are in the lake, so any number of timers on any number
of machines may call. Wall clocks decide which slots have come, and nothing else.
"""

import logging
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

from pipeline import alerts, ledger, night_report
from pipeline.alerts import Alert
from pipeline.journal import begun, new_id
from pipeline.ledger import Entry, Night
from pipeline.night_work import Ended, Order
from pipeline.recipe import Opened, read
from pipeline.schedule import ScheduleTable
from pipeline.supervise import in_child
from storage import runs
from storage.errors import GarnerError, InputError
from storage.lake import Lake
from storage.lease import Holder, Lease, take
from storage.runs import Run, RunRecord

log = logging.getLogger(__name__)

Work = Callable[[Order, Lease, float | None], Ended]
"""Works a night under a lease, within that many seconds."""


class Nightly:
    """The schedule of one recipe."""

    def __init__(
        self, path: str, settings: Sequence[str], now: datetime, say: Callable[[str], object], work: Work = in_child
    ) -> None:
        """`work` is what works the night: a process of its own, unless a test says otherwise."""
        self._path, self._settings = path, tuple(settings)
        self.opened = read(path, settings)
        self.schedule = _schedule(self.opened, path)
        self.name = ledger.name_of(self.opened, self.schedule)
        self._now, self._say, self._work = now.astimezone(UTC), say, work

    def run(self) -> int:
        """Run what is due; 0 also where nothing is, or another is at it, 1 if it failed or a limit does not hold, 2
        if the input is wrong. What keeps a night from beginning at all is told as well, and raised."""
        try:
            return self._run()
        except Exception as error:
            text = f"nightly {self.name} failed: {error}"
            alert = Alert(
                text=text, schedule=self.name, status="failed", lake=_shown(self.opened.lake), error=str(error)
            )
            alerts.send(self.schedule.alerts, alert)
            raise

    def _run(self) -> int:
        lake = Lake(self.opened.lake)
        entries = ledger.read(lake.folder, self.name)
        slots = ledger.due(self.schedule, ledger.last_good(entries), self._now)
        if not slots and all(entry.told for entry in entries):
            return self._idle(entries)
        lease = take(lake.folder, f"nightly.{self.name}")
        if isinstance(lease, Holder):
            self._say(f"nightly {self.name}: {lease} is at work on it; nothing to do here")
            return 0
        with lease:
            return self._alone(lake, lease)

    def _alone(self, lake: Lake, lease: Lease) -> int:
        """What is due, looked up again: whoever held the lease may have done it."""
        entries = ledger.read(lake.folder, self.name)
        codes = [(entry.good, self._tell(lake, entry)) for entry in entries if not entry.told]
        late = max((code for good, code in codes if good), default=0)  # what failed is due again, or was made up for
        last = ledger.last_good(entries)
        slots = ledger.due(self.schedule, last, self._now)
        if not slots:
            return late or self._idle(entries)
        order = self._order(slots, last, lease.term)
        deadline, began = self.schedule.deadline, time.monotonic()
        log.info("nightly %s: %s, %d slots", self.name, order.night.slot, len(slots))
        ended = self._work(order, lease, deadline.seconds if deadline else None)
        entry = self._entry(lake, order, ended, time.monotonic() - began)
        code = self._tell(lake, entry)
        if entry.good:
            self._retire(lake, entry)
        if ended.interrupted:
            raise KeyboardInterrupt
        return 2 if ended.wrong_input and not entry.good else code

    def _idle(self, entries: tuple[Entry, ...]) -> int:
        last, after = ledger.last_good(entries), self.schedule.next(self._now).astimezone(self.schedule.zone.info)
        ahead = last is not None and datetime.fromisoformat(last.night.slot) > self._now
        skew = f"; the clock here is behind, it says {self._now.isoformat(timespec='seconds')}" if ahead else ""
        done = "none has come yet"
        if last:
            done = f"run {last.run} of recipe {last.record.start.recipe} covers all up to {last.night.slot}"
        self._say(f"nightly {self.name}: nothing is due, {done}{skew}; the next is {after.isoformat()}")
        return 0

    def _order(self, slots: tuple[datetime, ...], last: Entry | None, term: int) -> Order:
        night = Night(schedule=self.name, slot=slots[-1].isoformat(), covers=ledger.covering(slots), term=term)
        webhook = self.schedule.alerts.webhook
        return Order(
            recipe=self._path,
            settings=self._settings,
            run=new_id(slots[-1].astimezone(self.schedule.zone.info).date()),
            night=night,
            hidden=(webhook.variable,) if webhook and webhook.variable else (),
            last={name: job.artifact for name, job in last.night.jobs.items()} if last else {},
        )

    def _entry(self, lake: Lake, order: Order, ended: Ended, seconds: float) -> Entry:
        """The night's record, written here where the work did not live to write it."""
        folder = lake.folder / f"runs/{order.run}"
        if Run(folder).record is None:
            if folder.exists("started.json"):
                start = Run(folder).start
            else:
                start = begun(self.opened, order.run)
                runs.begin(lake.folder, start)
            folder.create("log.txt", ended.log.encode())
            record = RunRecord(
                start=start,
                status="stopped" if ended.interrupted else "failed",
                seconds=seconds,
                steps=(),
                error=ended.error,
                night=ledger.plain(order.night),
            )
            runs.end(folder, record)
        entry = ledger.entry(Run(folder), self.name)
        assert entry is not None
        return entry

    def _tell(self, lake: Lake, entry: Entry) -> int:
        """Report a night: alerts first, then the page, whose presence says that it was told."""
        page, where = night_report.page(entry, _shown(lake.folder.url)), f"runs/{entry.run}/{ledger.REPORT}"
        alert = Alert(
            text=night_report.line(entry),
            schedule=self.name,
            status=night_report.status(entry),
            lake=_shown(lake.folder.url),
            run=entry.run,
            covers=entry.night.covers,
            breaches=entry.night.breaches,
            error=entry.record.error,
            seconds=entry.record.seconds,
            report=where,
        )
        alerts.send(self.schedule.alerts, alert)
        lake.folder.create(where, page.encode())
        self._say(night_report.line(entry) + f"; report: {where}" if entry.fine else page)
        return 0 if entry.fine else 1

    def _retire(self, lake: Lake, entry: Entry) -> None:
        if self.schedule.retention is None:
            return
        before = (self._now - timedelta(seconds=self.schedule.retention.seconds)).date()
        gone = ledger.retire(lake.folder, self.opened, self.name, entry.run, before)
        if gone:
            log.info("nightly %s: %d run folders of before %s were removed", self.name, len(gone), before)


def _schedule(opened: Opened, path: str) -> ScheduleTable:
    if opened.recipe.schedule is None:
        raise InputError(f'recipe {path} has no [schedule]: add one, for instance cron = "0 2 * * *"')
    if opened.lake.startswith("memory://"):
        raise InputError(
            f"lake = {opened.lake!r} ends with its process, so nights could not go on from it: use a folder"
        )
    return opened.recipe.schedule


def _shown(lake: str) -> str:
    """The lake's URL without what may stand before an @ or after a question mark."""
    if "://" not in lake:
        return lake
    parts = urlsplit(lake)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def nightly(recipes: Sequence[str], settings: Sequence[str], now: datetime, say: Callable[[str], object]) -> int:
    """Every recipe in turn; the worst of their exit codes. One that fails keeps no other from its night."""
    from pipeline.logs import complain

    worst = 0
    for path in recipes:
        try:
            code = Nightly(path, settings, now, say).run()
        except GarnerError as error:
            complain(f"{path}: {error}")
            code = 2 if isinstance(error, InputError) else 1
        except Exception:
            log.exception("nightly %s failed", path)
            code = 1
        worst = max(worst, code)
    return worst
