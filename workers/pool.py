"""Where tasks run: one `map`, in this process or on Ray."""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, Protocol, TypeVar

from storage.errors import InputError
from storage.value import Value

Task = TypeVar("Task")
Receipt = TypeVar("Receipt")

Device = Literal["cpu", "cuda", "auto"]
Reason = Literal["died", "unreachable", "timeout", "preempted", "slow", "start"]


def device_of(gpus: float) -> Device:
    """What a worker with so many GPUs runs on."""
    return "cpu" if not gpus else "cuda" if gpus <= 1 else "auto"


class Place(Value):
    """Where a worker finds itself."""

    device: Device = "cpu"
    """As torch names it; `auto` spreads a model over all the GPUs that its process sees."""
    batch_tokens: int | None = None
    """Most tokens of one forward pass here, where this place has a limit of its own."""


Make = Callable[[Place], Callable[[Task], Receipt]]
"""Builds what is called once per task (a loaded model, say); must be picklable, and so must tasks and receipts."""


class Needs(Value):
    """What the tasks of one map need of the machines, and what may be done with them."""

    device: bool = True
    """Whether a worker takes the share of GPUs that the pool gives; without, it takes one CPU."""
    timed: bool = True
    """Whether a task that takes longer than the pool's time-out is given to another worker."""
    copies: bool = True
    """Whether a slow task may run twice at once; the first to end counts."""
    threads: int = 1
    """Tasks that one worker has under way at once; more than one only where what is called bears it."""


NEEDS = Needs()


class Loss(Value):
    """An attempt that a machine, not the task, spoilt; the task ran again elsewhere."""

    reason: Reason
    """`slow`: a second attempt was sent after it. `start`: the worker was lost on its way to a machine."""
    task: str
    """"" if the worker was lost before it had one."""
    worker: str
    """Node and process, as far as they are known."""
    detail: str = ""
    """What Ray or the clock says of it, in one line."""


class Pool(Protocol):
    """Runs every task once, in any order, and yields small receipts as they come.

    An exception that a task raises ends the map and is raised here as it is. A machine that breaks is not the task's
    fault: its tasks run elsewhere, so a task must be safe to repeat. Closing the iterator stops what is under way.
    """

    @property
    def n_workers(self) -> int: ...

    @property
    def losses(self) -> Sequence[Loss]:
        """What was run again, and why, since the pool was made."""
        ...

    def map(self, make: Make[Task, Receipt], tasks: Sequence[Task], needs: Needs = NEEDS) -> Iterator[Receipt]: ...


class LocalPool:
    """This process, one task after the other: for debugging and tests."""

    n_workers = 1
    losses: Sequence[Loss] = ()

    def __init__(self, place: Place | None = None) -> None:
        self._place = place or Place()
        if self._place.device != "cpu" and not has_cuda():
            raise InputError(
                f"[pool] asks for GPUs (device {self._place.device}), and torch finds none in this process: set gpus = "
                "0 or cpu_fallback = true to run on CPU, or install a build of torch for the GPUs of this machine"
            )

    def map(self, make: Make[Task, Receipt], tasks: Sequence[Task], needs: Needs = NEEDS) -> Iterator[Receipt]:
        """Receipts in the order of the tasks."""
        if not tasks:
            return
        work = make(self._place if needs.device else Place())
        for task in tasks:
            yield work(task)


def has_cuda() -> bool:
    """Whether torch finds a GPU in this process."""
    import torch

    return torch.cuda.is_available()
