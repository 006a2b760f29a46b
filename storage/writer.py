"""One unit's rows of one site, on their way to whole shards and a mark."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from typing import NamedTuple

import numpy as np

from storage.dtype import encode
from storage.errors import RunError
from storage.layout import Layout
from storage.manifest import Mark
from storage.moments import Moments, merge
from storage.segment import Segment
from storage.shard import ShardMark, adopt, empty_rows, key, write
from storage.site import Site

_WRITING = 2
"""Shards of one site being written or adopted at once; who has another to write waits."""


def turns() -> threading.Semaphore:
    """What the writers of one site share, so that together they hold no more shards than one alone would."""
    return threading.Semaphore(_WRITING)


class _Whole(NamedTuple):
    mark: ShardMark
    moments: Moments
    seconds: float = 0.0
    """It took to be written; 0 if it was there."""
    written: int = 0
    """Bytes; 0 if it was there."""


class UnitWriter:
    """Takes rows in any order, writes each shard when its last row has come, and marks the unit at the end.

    Shards that an earlier attempt left whole are adopted, not made again: `missing` says which rows are wanted.
    """

    def __init__(
        self,
        segment: Segment,
        site: Site,
        layout: Layout,
        unit: int,
        executor: Executor,
        spare: list[np.ndarray],
        shared: threading.Semaphore | None = None,
    ) -> None:
        """`spare` keeps buffers from one unit to the next: fresh memory costs as much time as writing it.

        `shared` are the site's `turns`, where the writers of two units may be at work at once.
        """
        self.site, self._spare = site, spare
        self.encoding = 0.0
        """Seconds that rows took to be encoded into the buffers of their shards."""
        self.writing = 0.0
        """Seconds that shards took to be written, summed over threads; known when the unit is marked."""
        self.written = 0
        """Bytes of the shards that were written; known when the unit is marked."""
        self._segment, self._layout, self._unit = segment, layout, unit
        self._executor, self._turns = executor, shared or turns()
        self._started = time.monotonic()
        self._folder = segment.array(site)
        shards = layout.shards_within(*segment.plan.unit_range(unit))
        self._there = [s for s in shards if self._folder.exists(key(s))]
        self._left = {s: _length(layout, s) for s in shards if s not in self._there}
        self._buffers: dict[int, np.ndarray] = {}
        self._begun: dict[int, Future[_Whole]] = {}

    @property
    def missing(self) -> tuple[tuple[int, int], ...]:
        """Row ranges that no shard holds yet."""
        return tuple(self._layout.shard_range(shard) for shard in self._left)

    def put(self, start: int, x_ND: np.ndarray) -> None:
        """Take rows [start, start + n) of the segment; those that no missing shard of the unit wants are passed by."""
        stop = start + len(x_ND)
        rows = self._layout.rows_per_shard
        for shard in range(start // rows, -(-stop // rows)):
            if shard not in self._left:
                continue
            first, last = self._layout.shard_range(shard)
            a, b = max(start, first), min(stop, last)
            self._encode(shard, a - first, x_ND[a - start : b - start])
            self._left[shard] -= b - a
            if self._left[shard] == 0:
                del self._left[shard]
                self._begin(shard, partial(self._write, shard, self._buffers.pop(shard)))

    def finish(self, attempt: str, worker: str) -> Mark:
        """Adopt what was there, wait for the shards, and mark the unit; the mark is the commit."""
        if self._left:
            raise RunError(f"unit {self._unit} of {self.site} ended with rows missing in shards {sorted(self._left)}")
        for shard in self._there:
            self._begin(shard, partial(self._adopt, shard))
        done = [self._begun[shard].result() for shard in sorted(self._begun)]
        self.writing, self.written = sum(one.seconds for one in done), sum(one.written for one in done)
        moments = merge(one.moments for one in done)
        mark = Mark(
            unit=self._unit,
            rows=moments.count + moments.nonfinite,
            attempt=attempt,
            worker=worker,
            seconds=time.monotonic() - self._started,
            moments=moments,
            shards=tuple(one.mark for one in done),
        )
        self._segment.mark(self.site, mark)
        return mark

    def _encode(self, shard: int, at: int, x_ND: np.ndarray) -> None:
        began = time.perf_counter()
        if shard not in self._buffers:
            self._buffers[shard] = empty_rows(self._layout, shard, self._spare)
        self._buffers[shard][at : at + len(x_ND)] = encode(self._layout.dtype, x_ND)
        self.encoding += time.perf_counter() - began

    def _begin(self, shard: int, work: Callable[[], _Whole]) -> None:
        """Have the executor do it at this site's turn; an error of a shard that was begun before is raised here."""
        self._turns.acquire()
        try:
            for ended in [one for one in self._begun.values() if one.done()]:
                ended.result()
            self._begun[shard] = self._executor.submit(self._in_turn, work)
        except BaseException:
            self._turns.release()
            raise

    def _in_turn(self, work: Callable[[], _Whole]) -> _Whole:
        try:
            return work()
        finally:
            self._turns.release()

    def _write(self, shard: int, x_RW: np.ndarray) -> _Whole:
        began = time.perf_counter()
        mark, moments = write(self._folder, self._layout, shard, x_RW)
        self._spare.append(x_RW)
        return _Whole(mark, moments, time.perf_counter() - began, mark.size)

    def _adopt(self, shard: int) -> _Whole:
        return _Whole(*adopt(self._folder, self._layout, shard))


def _length(layout: Layout, shard: int) -> int:
    first, stop = layout.shard_range(shard)
    return stop - first
