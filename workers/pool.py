"""Where tasks run: one `map`, in this process or on Ray."""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

Task = TypeVar("Task")
Receipt = TypeVar("Receipt")

Make = Callable[[], Callable[[Task], Receipt]]
"""Builds what is called once per task (a loaded model, say); must be picklable, and so must tasks and receipts."""


class Pool(Protocol):
    """Runs every task once, in any order, and yields small receipts as they come.

    An exception that a task raises ends the map and is raised here as it is. A machine that breaks is not the task's
    fault: its tasks run elsewhere, so a task must be safe to repeat. Closing the iterator stops what is under way.
    """

    @property
    def n_workers(self) -> int: ...

    def map(self, make: Make[Task, Receipt], tasks: Sequence[Task]) -> Iterator[Receipt]: ...


class LocalPool:
    """This process, one task after the other: for debugging and tests."""

    n_workers = 1

    def map(self, make: Make[Task, Receipt], tasks: Sequence[Task]) -> Iterator[Receipt]:
        """Receipts in the order of the tasks."""
        if not tasks:
            return
        work = make()
        for task in tasks:
            yield work(task)
