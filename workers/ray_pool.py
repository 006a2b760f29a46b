"""The Ray pool: actors that build their worker once, and one loop over `ray.wait` that owns every retry.

The driver keeps no truth: what is done is what storage says. An actor's death requeues its tasks, which are safe to
repeat; an exception from a task is the input's fault or ours, and ends the map.
"""

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayActorError, RayTaskError, WorkerCrashedError

from storage.errors import GarnerError, RunError
from workers.pool import NEEDS, Loss, Make, Needs, Place, Receipt, Task

log = logging.getLogger(__name__)

_WINDOW = 2
"""Tasks sent to an actor at once, so that it never waits for the driver."""
_LOSSES = 3
"""Actors that may die in a row, and attempts that one task may cost, before the run gives up."""
_PATIENCE = 60
"""Seconds without any news before the log says what is waited for."""
_MACHINE_FAULTS = (ActorDiedError, ActorUnavailableError, RayActorError, WorkerCrashedError)


class _Actor:
    """Builds its worker at the first task, so that an error in building is a task's error and not a death."""

    def __init__(self, make: Make[Any, Any], place: Place) -> None:
        self._make, self._place = make, place
        self._work: Any = None

    def ready(self) -> None:
        """Returns once the actor has its place on a machine."""

    def run(self, task: object) -> object:
        self._work = self._work or self._make(self._place)
        return self._work(task)


class RayPool:
    """Actors on a Ray cluster, one model each."""

    def __init__(self, address: str, n_workers: int, gpus: float) -> None:
        """`address` is "local" for a Ray of this process's own; `gpus` is the share each worker gets."""
        start(address)
        self._gpus = gpus
        self.losses: list[Loss] = []
        self.n_workers = n_workers or max(int(_resources().get("GPU" if gpus else "CPU", 1) / (gpus or 1)), 1)

    def map(self, make: Make[Task, Receipt], tasks: Sequence[Task], needs: Needs = NEEDS) -> Iterator[Receipt]:
        """Receipts in the order in which tasks end."""
        flight = _Flight(self._spawner(make), min(self.n_workers, len(tasks)), tasks)
        try:
            while flight.busy:
                yield from flight.step()
        finally:
            flight.stop()

    def _spawner(self, make: Make[Any, Any]) -> Any:
        options = {"num_cpus": 1, "num_gpus": self._gpus, "max_restarts": 0, "max_task_retries": 0}
        remote = ray.remote(_Actor).options(enable_task_events=False, **options)
        place = Place(device="cuda" if self._gpus else "cpu")
        return lambda: remote.remote(make, place)


class _Flight:
    """Tasks waiting, tasks under way on which actor, actors still without a place, and the count of losses."""

    def __init__(self, spawn: Any, n_actors: int, tasks: Sequence[Any]) -> None:
        self._spawn = spawn
        self._waiting: deque[Any] = deque(tasks)
        self._running: dict[Any, tuple[Any, Any]] = {}
        self._starting: dict[Any, Any] = {}
        self._ready: list[Any] = []
        self._attempts: dict[Any, int] = {}
        self._losses = 0
        for _ in range(n_actors):
            self._start()

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._running)

    def step(self) -> Iterator[Any]:
        """Send what fits, wait for one thing to happen, and give a receipt or take back what a dead actor lost."""
        self._send()
        done, _ = ray.wait([*self._running, *self._starting], num_returns=1, timeout=_PATIENCE)
        if not done:
            self._complain()
        elif done[0] in self._starting:
            self._arrive(done[0])
        else:
            yield from self._collect(done[0])

    def stop(self) -> None:
        """End every actor."""
        for actor in (*self._ready, *self._starting.values()):
            ray.kill(actor)

    def _start(self) -> None:
        actor = self._spawn()
        self._starting[actor.ready.remote()] = actor

    def _arrive(self, ready: Any) -> None:
        """An actor has its place, or died on the way to it."""
        actor = self._starting.pop(ready)
        try:
            ray.get(ready)
        except _MACHINE_FAULTS as fault:
            self._lose(fault, "starting up")
        else:
            self._ready.append(actor)

    def _collect(self, done: Any) -> Iterator[Any]:
        actor, task = self._running.pop(done)
        try:
            receipt = ray.get(done)
        except _MACHINE_FAULTS as fault:
            self._take_back(actor, task, fault)
            return
        except RayTaskError as error:
            raise _own(error) from error
        self._losses = 0
        yield receipt

    def _send(self) -> None:
        load = dict.fromkeys(self._ready, 0)
        for actor, _ in self._running.values():
            load[actor] = load.get(actor, 0) + 1
        for depth in range(_WINDOW):
            for actor in self._ready:
                if self._waiting and load[actor] <= depth:
                    task = self._waiting.popleft()
                    self._running[actor.run.remote(task)] = (actor, task)
                    load[actor] += 1

    def _take_back(self, actor: Any, task: Any, fault: Exception) -> None:
        """Put the task back; the first of a dead actor's tasks to fail also brings the new actor."""
        self._waiting.appendleft(task)
        if actor not in self._ready:
            return
        self._ready.remove(actor)
        self._attempts[task] = self._attempts.get(task, 0) + 1
        self._lose(fault, f"at {task}", self._attempts[task])

    def _lose(self, fault: Exception, where: str, attempts: int = 0) -> None:
        self._losses += 1
        if max(self._losses, attempts) > _LOSSES:
            raise RunError(
                f"{self._losses} workers were lost in a row, the last {where}: most likely memory ran out "
                f"(lower batch_tokens or workers in [pool]) or a device is broken; Ray says: {fault}"
            ) from fault
        log.warning("a worker was lost %s (%s); another takes over", where, type(fault).__name__)
        self._start()

    def _complain(self) -> None:
        if not self._ready:
            log.warning(
                "no worker has found a place for %d s: the cluster has %s free",
                _PATIENCE,
                ray.available_resources(),  # type: ignore[no-untyped-call]
            )


def start(address: str) -> None:
    """Connect to Ray, or start one for this process, quiet and without a dashboard.

    Authentication must have been decided by `workers.ray_environment.decide` before Ray was imported.
    """
    if ray.is_initialized():
        return
    if address != "local":
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        return
    ray.init(
        address="local",
        include_dashboard=False,
        object_store_memory=100 * 2**20,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )


def _resources() -> dict[str, float]:
    return dict(ray.cluster_resources())  # type: ignore[no-untyped-call]


def _own(error: RayTaskError) -> Exception:
    """The task's own exception where it is ours, whole with its traceback as text otherwise."""
    cause = error.cause
    return cause if isinstance(cause, GarnerError) else RunError(f"a task failed: {error}")
