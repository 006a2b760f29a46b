"""The Ray pool: actors that build their worker once, and one thin loop over `ray.wait`; `Flight` owns every decision.

The driver keeps no truth: what is done is what storage says. An actor's death requeues its tasks, which are safe to
repeat; an exception from a task is the input's fault or ours, and ends the map.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from workers import ray_actors
from workers.connect import start
from workers.crew import LIMITS, Call, Limits, Worker
from workers.flight import Flight
from workers.groups import Group, Node, settle, targets, without_gpus
from workers.one_root import checked, fingerprint, one_root
from workers.pool import NEEDS, Loss, Make, Needs, Reason, Receipt, Task

log = logging.getLogger(__name__)

_TICK = 0.5
"""Seconds between looks at the clock."""
_LOSSES = 10_000
"""Losses that are kept; further ones are only logged."""


class RayPool:
    """Actors on a Ray cluster, one model each."""

    def __init__(
        self, address: str, groups: Sequence[Group], limits: Limits = LIMITS, cpu_fallback: bool = False
    ) -> None:
        """`address` is "local" for a Ray of this process's own."""
        start(address)
        self._code = None if address == "local" else fingerprint(one_root())
        self._groups = settle(groups, _nodes(), address == "local", cpu_fallback)
        self._limits = limits
        self.losses: list[Loss] = []
        self.n_workers = sum(targets(_nodes(), self._groups))

    def map(self, make: Make[Task, Receipt], tasks: Sequence[Task], needs: Needs = NEEDS) -> Iterator[Receipt]:
        """Receipts in the order in which tasks end."""
        groups = self._groups if needs.device else without_gpus(self._groups)
        alike = make if self._code is None else partial(checked, self._code, make)
        under_way = _Map(alike, groups, Flight(tasks, needs, self._limits, self._record, time.monotonic), self._limits)
        try:
            yield from under_way.receipts(needs.threads)
        finally:
            under_way.stop()

    def _record(self, losses: Sequence[Loss]) -> None:
        """Keep them, and say so in one line."""
        self.losses += losses[: _LOSSES - len(self.losses)]
        loss, tasks = losses[0], [loss.task for loss in losses if loss.task]
        log.warning(
            _SAID.get(loss.reason, _LOST),
            loss.worker or "on its way to a machine",
            " and ".join(tasks) or "no task",
            loss.reason,
            loss.detail,
            extra={"fields": {"loss": loss.reason, "tasks": tasks, "worker": loss.worker, "detail": loss.detail}},
        )


_SAID: dict[Reason, str] = {
    "slow": "a worker is slow: %s, at %s (%s: %s); another tries as well, and the first to end counts",
    "unreachable": "a worker can't be reached: %s, at %s (%s: %s); another takes over",
}
_LOST = "a worker was lost: %s, at %s (%s: %s); another takes over"


@dataclass(frozen=True, slots=True)
class _Arrival:
    """A new actor's first sign of life."""

    worker: Worker


@dataclass(frozen=True, slots=True)
class _Built:
    """The end of a new actor's building."""

    worker: Worker


@dataclass(frozen=True, slots=True)
class _Ping:
    """Another sign of life, asked of an actor that could not be reached."""

    worker: Worker


_Event = Call | _Arrival | _Built | _Ping


class _Map:
    """One map under way: what Ray was asked for, and what each of its answers will mean."""

    def __init__(self, make: Make[Any, Any], groups: Sequence[Group], flight: Flight, limits: Limits) -> None:
        self._make, self._groups, self._flight, self._limits = make, groups, flight, limits
        self._actors: dict[Worker, Any] = {}
        self._events: dict[Any, _Event] = {}
        self._silent: list[Worker] = []
        self._wanted: list[int] = []
        self._looked = self._heard = self._ticked = float("-inf")

    def receipts(self, threads: int) -> Iterator[Any]:
        """One for each task."""
        self._heard = time.monotonic()
        while self._flight.left:
            self._tick(threads)
            for call in self._flight.sends():
                self._send(call)
            done, _ = ray.wait([*self._events], num_returns=1, timeout=_TICK) if self._events else ([], [])
            if done:
                yield from self._hear(done[0], self._events.pop(done[0]))
            elif not self._events:
                time.sleep(_TICK)  # every place rests

    def stop(self) -> None:
        """End every actor."""
        for worker in list(self._actors):
            self._kill(worker)

    def _tick(self, threads: int) -> None:
        """What the clock says: nodes to look at, workers to start or to kill, tasks to copy."""
        now = time.monotonic()
        if now - self._ticked < _TICK:
            return
        self._ticked = now
        self._look(now)
        for worker in (*self._flight.overdue(), *self._flight.spare()):
            self._kill(worker)
        for worker in self._flight.resize(self._wanted):
            self._start(worker, threads)
        for call in self._flight.copies():
            self._send(call)
        while self._silent:
            self._ping(self._silent.pop())
        self._complain(now)

    def _look(self, now: float) -> None:
        if now - self._looked < self._limits.look:
            return
        self._looked = now
        wanted = targets(_nodes(), self._groups)
        if self._wanted and sum(wanted) > sum(self._wanted):
            log.info(
                "the cluster has room for more workers: %d, up from %d",
                sum(wanted),
                sum(self._wanted),
                extra={"fields": {"workers": sum(wanted), "before": sum(self._wanted)}},
            )
        self._wanted = wanted

    def _start(self, worker: Worker, threads: int) -> None:
        actor = self._actors[worker] = ray_actors.asked(self._make, self._groups[worker.group], threads)
        self._events[actor.alive.remote()] = _Arrival(worker)

    def _send(self, call: Call) -> None:
        self._events[self._actors[call.worker].run.remote(self._flight.tasks[call.task])] = call

    def _hear(self, ref: Any, event: _Event) -> Iterator[Any]:
        """What Ray's answer means."""
        try:
            answer = ray.get(ref)
        except RayTaskError as error:
            raise ray_actors.own(error) from error
        except RayError as fault:
            self._suffer(event, fault)
            return
        match event:
            case Call():
                if self._flight.ended(event):
                    yield answer
            case _Arrival(worker):
                self._flight.placed(worker, answer)
                self._events[self._actors[worker].build.remote()] = _Built(worker)
            case _Built(worker) | _Ping(worker):
                self._flight.ready(worker)

    def _suffer(self, event: _Event, fault: RayError) -> None:
        """A worker is lost, or can't be reached for now."""
        reason, detail = ray_actors.reason(fault), ray_actors.said(fault)
        if reason == "unreachable" and isinstance(event, Call):
            if event.worker.state == "open":
                self._ping(event.worker)
            self._flight.astray(event, detail)
        elif reason == "unreachable" and isinstance(event, _Ping):
            self._silent.append(event.worker)
        else:
            self._kill(event.worker)
            self._flight.lost(event.worker, reason, detail)

    def _ping(self, worker: Worker) -> None:
        if worker in self._actors:
            self._events[self._actors[worker].alive.remote()] = _Ping(worker)

    def _kill(self, worker: Worker) -> None:
        """End an actor, and expect nothing of it any more."""
        self._events = {ref: event for ref, event in self._events.items() if event.worker is not worker}
        ray.kill(self._actors.pop(worker))

    def _complain(self, now: float) -> None:
        if any(worker.name for worker in self._flight.crew.workers):
            self._heard = now
        elif now - self._heard >= self._limits.complaint:
            self._heard = now
            wanted = " or ".join(group.wanted for group in self._groups)
            free = {name: n for name, n in ray.available_resources().items() if name in ("CPU", "GPU")}  # type: ignore[no-untyped-call]
            log.warning(
                "no worker has found a place for %.0f s: each needs %s, and the cluster has %s free",
                self._limits.complaint,
                wanted,
                free,
                extra={"fields": {"wanted": wanted, "free": free}},
            )


def _nodes() -> list[Node]:
    return list(ray.nodes())  # type: ignore[no-untyped-call]
