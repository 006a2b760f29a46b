"""Where the seconds of a unit go."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal, TypeVar

import msgspec

from storage.value import Value

T = TypeVar("T")

Step = Literal["read", "forward", "copy", "encode", "write"]
"""What a unit's seconds are spent on, in the order in which a row meets them."""


class Timings(Value):
    """Seconds of work by what for, each measured by the thread that does it; waiting for another thread is not counted.

    They overlap, so their sum may be more than the time that passed. On CUDA the forward is queued and returns before
    it has run: what the device still has to do is then waited for, and counted, in the copy.
    """

    read: float = 0.0
    """Of reading token parts and padding batches."""
    forward: float = 0.0
    """Of the model, of choosing the rows that are kept, and of rounding them to the stored type."""
    copy: float = 0.0
    """Of bringing rows to the host, once the device has them."""
    encode: float = 0.0
    """Of placing rows in the buffers of their shards, encoded."""
    write: float = 0.0
    """Of checksums, moments, and creating the shards' objects; two threads do it, and both are counted."""


class Clock:
    """Adds up seconds; several threads may use it, each for steps that no other one counts."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    @property
    def timings(self) -> Timings:
        return msgspec.convert(self._seconds, Timings)

    def add(self, step: Step, seconds: float) -> None:
        """Count seconds that were measured elsewhere."""
        self._seconds[step] = self._seconds.get(step, 0.0) + seconds

    @contextmanager
    def counting(self, step: Step) -> Iterator[None]:
        """Count what the block takes."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.add(step, time.perf_counter() - began)

    def each(self, step: Step, items: Iterable[T]) -> Iterator[T]:
        """The items; what it takes to make each is counted."""
        source = iter(items)
        while True:
            with self.counting(step):
                item = next(source, None)
            if item is None:
                return
            yield item
