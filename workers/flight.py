"""The bookkeeping of one map: which task goes where, what runs again and why, and when to give up. Knows no Ray.

The pool tells what happens; the answers say whom to start, what to send and whom to kill. The clock is given.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from storage.errors import RunError
from workers.crew import Call, Clock, Crew, Limits, Worker
from workers.pool import Loss, Needs, Reason

_SAMPLE = 512
"""Durations remembered."""
_SHOWN = 200
"""Characters of a task in a message."""

Record = Callable[[Sequence[Loss]], None]
"""Is told what one event spoilt, all with the same worker."""


class Flight:
    """Tasks not yet sent, tasks under way, and the crew that has them. Keeps nothing of a task that is done."""

    def __init__(self, tasks: Sequence[Any], needs: Needs, limits: Limits, record: Record, clock: Clock) -> None:
        self.tasks, self.crew = tasks, Crew(limits, clock)
        self._needs, self._limits, self._record, self._clock = needs, limits, record, clock
        self._fresh = 0
        self._returned: deque[int] = deque()
        self._running: dict[int, list[Call]] = {}
        self._attempts: dict[int, int] = {}
        self._done = 0
        self._times: deque[float] = deque(maxlen=_SAMPLE)
        self._open: tuple[dict[Worker, None], ...] = tuple({} for _ in range(needs.threads + 2))

    @property
    def left(self) -> int:
        """Tasks that are not done."""
        return len(self.tasks) - self._done

    @property
    def n_open(self) -> int:
        """Workers that take tasks."""
        return sum(map(len, self._open))

    @property
    def _waiting(self) -> int:
        return len(self.tasks) - self._fresh + len(self._returned)

    def resize(self, wanted: Sequence[int]) -> list[Worker]:
        """Workers to start now, where so many of each group are wanted."""
        self.crew.resize(wanted, self.left)
        return self.crew.due()

    def placed(self, worker: Worker, name: str) -> None:
        """It has a process on a node, and begins to build what it works with."""
        worker.name = name
        self.crew.enter(worker, "building")

    def ready(self, worker: Worker) -> None:
        """It takes tasks now, for the first time or again."""
        self.crew.enter(worker, "open")
        self._resume(worker)

    def sends(self) -> Iterator[Call]:
        """What to send now: one task for every thread first, and one more in wait while there are plenty."""
        while self._waiting:
            worker = self._freest()
            if worker is None:
                return
            yield self._send(worker, self._returned.popleft() if self._returned else self._take_fresh())

    def copies(self) -> Iterator[Call]:
        """Slow tasks, oldest first, to send a second time to workers that have nothing to do."""
        if not self._needs.copies or self._waiting or not self._times or not self._open[0]:
            return
        now, slow = self._clock(), self._slow()
        alone = [calls[0] for calls in self._running.values() if len(calls) == 1 and now - calls[0].sent > slow]
        idle = iter(list(self._open[0]))
        for call, worker in zip(sorted(alone, key=lambda call: call.sent), idle, strict=False):
            detail = f"{now - call.sent:.0f} s, where {slow:.0f} s is slow"
            self._spoilt(call.worker, [call], "slow", detail)
            yield self._send(worker, call.task)

    def ended(self, call: Call) -> bool:
        """A worker is through with a task; whether this is the first answer for it."""
        self._leave(call)
        if not self._counts(call):
            return False
        del self._running[call.task]
        self._attempts.pop(call.task, None)
        self._times.append(self._clock() - (call.sent if call.began is None else call.began))
        self._done += 1
        self.crew.succeed(call.worker)
        return True

    def lost(self, worker: Worker, reason: Reason, detail: str) -> None:
        """A worker is no more: its tasks run elsewhere, and after a rest another takes its place."""
        placed = worker.name or reason == "preempted"
        self._give_up(worker, list(worker.calls), reason if placed else "start", detail)

    def astray(self, call: Call, detail: str) -> None:
        """A worker could not be reached over a call, but may be again: it gets no task until it answers."""
        worker, spoilt = call.worker, [call] if call.began is not None and self._counts(call) else []
        self._open[len(worker.calls)].pop(worker, None)
        if worker.state == "open":
            self.crew.enter(worker, "suspect")
        worker.calls.remove(call)
        self._take_back(call)
        if spoilt:
            self._spoilt(worker, spoilt, "unreachable", detail)
            self._judge([call.task], 0, "unreachable", detail)

    def overdue(self) -> list[Worker]:
        """Workers to kill: their task, or the building of what they work with, took too long, or they are silent."""
        now = self._clock()
        late = [(worker, self._late(worker, now)) for worker in self.crew.workers]
        for worker, calls in late:
            if calls is not None:
                silent = worker.state == "suspect"
                limit = self._limits.grace if silent else self._limits.timeout
                self._give_up(worker, calls, "unreachable" if silent else "timeout", f"over {limit:g} s")
        return [worker for worker, calls in late if calls is not None]

    def spare(self) -> list[Worker]:
        """Workers to kill because the tasks left are fewer; where slow tasks are copied, some stay for that."""
        away = self.crew.trim(self.left * (2 if self._needs.copies else 1))
        for worker in away:
            self._open[0].pop(worker, None)
        return away

    def _freest(self) -> Worker | None:
        ahead = self._waiting > self.n_open
        for load in range(self._needs.threads + ahead):
            for worker in self._open[load]:
                return worker
        return None

    def _take_fresh(self) -> int:
        self._fresh += 1
        return self._fresh - 1

    def _send(self, worker: Worker, task: int) -> Call:
        now, load = self._clock(), len(worker.calls)
        call = Call(worker, task, now, now if load < self._needs.threads else None)
        del self._open[load][worker]
        self._open[load + 1][worker] = None
        worker.calls.append(call)
        self._running.setdefault(task, []).append(call)
        return call

    def _leave(self, call: Call) -> None:
        """Its worker has room for another, and begins what stood behind it."""
        worker = call.worker
        self._open[len(worker.calls)].pop(worker, None)
        worker.calls.remove(call)
        if worker.state == "open":
            self._resume(worker)

    def _resume(self, worker: Worker) -> None:
        self._open[len(worker.calls)][worker] = None
        for call in worker.calls[: self._needs.threads]:
            if call.began is None:
                call.began = self._clock()

    def _counts(self, call: Call) -> bool:
        """Whether its answer would be the first for its task."""
        return call in self._running.get(call.task, ())

    def _late(self, worker: Worker, now: float) -> list[Call] | None:
        """What a worker has had for too long, nothing in particular if it built or kept silent; None if all is well."""
        if worker.state == "suspect":
            return [] if now - worker.since > self._limits.grace else None
        if not self._needs.timed:
            return None
        if worker.state == "building":
            return [] if now - worker.since > self._limits.timeout else None
        late = [
            call for call in worker.calls if now - (now if call.began is None else call.began) > self._limits.timeout
        ]
        return late or None

    def _give_up(self, worker: Worker, blamed: Sequence[Call], reason: Reason, detail: str) -> None:
        spoilt = [call for call in worker.calls if call.began is not None and self._counts(call)]
        self._open[len(worker.calls)].pop(worker, None)
        for call in reversed(worker.calls):
            self._take_back(call)
        row = self.crew.lose(worker, counts=reason != "preempted")
        self._spoilt(worker, spoilt, reason, detail)
        self._judge([call.task for call in spoilt if call in blamed], row, reason, detail)

    def _take_back(self, call: Call) -> None:
        """Its task waits again, before all others, unless it is done or runs elsewhere as well."""
        if not self._counts(call):
            return
        self._running[call.task].remove(call)
        if not self._running[call.task]:
            del self._running[call.task]
            self._returned.appendleft(call.task)

    def _spoilt(self, worker: Worker, calls: Sequence[Call], reason: Reason, detail: str) -> None:
        """Keep a record of every attempt that was for nothing, or of the worker if it had none."""
        names = [self._name(call.task) for call in calls] or [""]
        self._record([Loss(reason=reason, task=name, worker=worker.name, detail=detail) for name in names])

    def _judge(self, blamed: Sequence[int], row: int, reason: Reason, detail: str) -> None:
        """Give up where one task, or nothing in between, cost too many workers."""
        if reason == "preempted":
            return
        for task in blamed:
            self._attempts[task] = self._attempts.get(task, 0) + 1
            if self._attempts[task] >= self._limits.attempts:
                raise RunError(self._hopeless(self._name(task), reason, detail))
        if row >= self._limits.row:
            last = f"at {self._name(blamed[0])}" if blamed else "before it had a task"
            raise RunError(
                f"{row} workers were lost in a row with nothing done in between, the last {last} ({reason}): most "
                "likely memory ran out (lower batch_tokens or workers in [pool]), or the image or a device is broken; "
                f"Ray says: {detail}"
            )

    def _hopeless(self, name: str, reason: Reason, detail: str) -> str:
        if reason == "timeout":
            return (
                f"{name} took longer than pool.timeout = {self._limits.timeout:g} s on {self._limits.attempts} "
                "workers: raise it if that is how long such a task takes, or look at what it reads"
            )
        return (
            f"{name} was lost with each of {self._limits.attempts} workers: most likely memory ran out there (lower "
            f"batch_tokens or workers in [pool]), or what it reads breaks the process; Ray says: {detail}"
        )

    def _slow(self) -> float:
        """Seconds after which a task is slow."""
        ordered = sorted(self._times)
        usual = ordered[int(0.95 * (len(ordered) - 1))]
        return max(self._limits.slow, self._limits.slow_factor * usual)

    def _name(self, task: int) -> str:
        return str(self.tasks[task])[:_SHOWN]
