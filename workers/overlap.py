"""Work that overlaps: what is made a little ahead of its use, and what is taken a little behind its making.

Each is one thread and one bounded queue. A queue blocks and never drops, so order is kept; when its block ends, however
it ends, the thread has ended too, and what it raised is raised there as it is.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Generic, TypeVar

T = TypeVar("T")

AHEAD, BEHIND = 1, 1
"""Batches that wait for the model, and batches of its rows that wait to be stored; each costs memory."""


@contextmanager
def ahead(items: Iterable[T], depth: int) -> Iterator[Iterator[T]]:
    """What `items` gives, made by another thread, at most `depth` of it before it is asked for."""
    channel = _Channel[T](depth)
    with ThreadPoolExecutor(1, thread_name_prefix="garner-ahead") as thread:
        made = thread.submit(_make, items, channel)

        def given() -> Iterator[T]:
            yield from channel
            made.result()

        try:
            yield given()
        finally:
            channel.stop()


@contextmanager
def behind(take: Callable[[T], object], depth: int) -> Iterator[Callable[[T], None]]:
    """A function that hands an item to `take` in another thread; it waits while `depth` items are not yet begun.

    All are taken when the block ends well, none after the one under way when it does not.
    """
    channel = _Channel[T](depth)
    with ThreadPoolExecutor(1, thread_name_prefix="garner-behind") as thread:
        taken = thread.submit(_take, channel, take)

        def put(item: T) -> None:
            if not channel.put(item):
                taken.result()

        try:
            yield put
        except BaseException:
            channel.stop()
            raise
        channel.end()
        taken.result()


class _Channel(Generic[T]):
    """A bounded queue from one thread to another, which either of them can close."""

    def __init__(self, depth: int) -> None:
        self._depth, self._items = depth, deque[T]()
        self._changed = threading.Condition()
        self._ended = self._stopped = False

    def put(self, item: T) -> bool:
        """Wait for room; whether the item went in, which it does unless the channel was stopped."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or len(self._items) < self._depth)
            if not self._stopped:
                self._items.append(item)
                self._changed.notify_all()
            return not self._stopped

    def end(self) -> None:
        """No more items come; those that are there are still given."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def stop(self) -> None:
        """Nothing more goes in or out."""
        with self._changed:
            self._stopped = True
            self._items.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[T]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopped or self._ended or bool(self._items))
                if not self._items:
                    return
                item = self._items.popleft()
                self._changed.notify_all()
            yield item
            del item  # it may be large, and the next may be long in coming


def _make(items: Iterable[T], channel: _Channel[T]) -> None:
    try:
        for item in items:
            if not channel.put(item):
                return
    finally:
        channel.end()


def _take(channel: _Channel[T], take: Callable[[T], object]) -> None:
    try:
        for item in channel:
            take(item)
            del item
    except BaseException:
        channel.stop()
        raise
