"""The actor that has one worker, where actors of a group are placed, and what Ray says when one is lost."""

import os
import platform
from functools import cache
from typing import Any

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayActorError, RayTaskError

from storage.errors import GarnerError, RunError
from workers.groups import Group
from workers.pool import Make, Place, Reason

_SHOWN = 300
"""Characters of what Ray says that are kept."""


class Actor:
    """Builds its worker in a call of its own, so that an error in building is an error and not a death."""

    def __init__(self, make: Make[Any, Any], place: Place) -> None:
        if place.device == "cpu":
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Ray leaves all GPUs visible to an actor that asks for none
        self._make, self._place = make, place
        self._work: Any = None

    @ray.method(concurrency_group="health")
    def alive(self) -> str:
        """Node and process, also while tasks run; returns once the actor has its place on a machine."""
        return f"{platform.node()}:{os.getpid()}"

    def build(self) -> None:
        """Before the first task, and once."""
        self._work = self._make(self._place)

    def run(self, task: object) -> object:
        return self._work(task)


@cache
def _remote() -> Any:
    return ray.remote(concurrency_groups={"health": 1})(Actor)  # type: ignore[call-overload]


def asked(make: Make[Any, Any], group: Group, threads: int) -> Any:
    """A new actor of a group, asked for; Ray places it when it can, and never starts it again."""
    where = {"accelerator_type": group.accelerator, "label_selector": group.labels or None}
    return (
        _remote()
        .options(
            num_cpus=1,
            num_gpus=group.gpus,
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=threads,
            enable_task_events=False,
            **{name: value for name, value in where.items() if value},
        )
        .remote(make, group.place)
    )


def reason(fault: Exception) -> Reason:
    """What kind of loss it is."""
    if isinstance(fault, RayActorError) and fault.preempted:
        return "preempted"
    return "unreachable" if isinstance(fault, ActorUnavailableError) else "died"


def said(fault: Exception) -> str:
    """Why, as Ray says it, in one line; without the actor's numbers, which are lines set in."""
    text = " ".join(
        line for line in str(fault).removeprefix(ActorDiedError.BASE_ERROR_MSG).splitlines() if line[:1] != "\t"
    )
    text = text.strip() or ActorDiedError.BASE_ERROR_MSG
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} ..."


def own(error: RayTaskError) -> Exception:
    """The task's own exception where it is ours, whole with its traceback as text otherwise."""
    cause = error.cause
    return cause if isinstance(cause, GarnerError) else RunError(f"a task failed: {error}")
