"""One unit's rows of one site, on their way to whole shards and a mark."""

import time
from collections.abc import Sequence
from concurrent.futures import Executor, Future

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
"""Shards of one site being written at once; `put` waits for the oldest when there are more."""


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
    ) -> None:
        """`spare` keeps buffers from one unit to the next: fresh memory costs as much time as writing it."""
        self.site, self._spare = site, spare
        self._segment, self._layout, self._unit = segment, layout, unit
        self._executor = executor
        self._started = time.monotonic()
        self._folder = segment.array(site)
        shards = layout.shards_within(*segment.plan.unit_range(unit))
        there = {s for s in shards if self._folder.exists(key(s))}
        self._left = {s: _length(layout, s) for s in shards if s not in there}
        self._buffers: dict[int, np.ndarray] = {}
        self._writing: dict[int, Future[tuple[ShardMark, Moments]]] = {
            s: executor.submit(adopt, self._folder, layout, s) for s in there
        }

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
            if shard not in self._buffers:
                self._buffers[shard] = empty_rows(self._layout, shard, self._spare)
            self._buffers[shard][a - first : b - first] = encode(self._layout.dtype, x_ND[a - start : b - start])
            self._left[shard] -= b - a
            if self._left[shard] == 0:
                self._write(shard)

    def finish(self, attempt: str, worker: str) -> Mark:
        """Wait for the shards, and mark the unit; the mark is the commit."""
        if self._left:
            raise RunError(f"unit {self._unit} of {self.site} ended with rows missing in shards {sorted(self._left)}")
        done = [self._writing[shard].result() for shard in sorted(self._writing)]
        moments = merge(one for _, one in done)
        mark = Mark(
            unit=self._unit,
            rows=moments.count + moments.nonfinite,
            attempt=attempt,
            worker=worker,
            seconds=time.monotonic() - self._started,
            moments=moments,
            shards=tuple(one for one, _ in done),
        )
        self._segment.mark(self.site, mark)
        return mark

    def _write(self, shard: int) -> None:
        del self._left[shard]
        _await_all_but(list(self._writing.values()), _WRITING - 1)
        self._writing[shard] = self._executor.submit(self._written, shard, self._buffers.pop(shard))

    def _written(self, shard: int, x_RW: np.ndarray) -> tuple[ShardMark, Moments]:
        done = write(self._folder, self._layout, shard, x_RW)
        self._spare.append(x_RW)
        return done


def _length(layout: Layout, shard: int) -> int:
    first, stop = layout.shard_range(shard)
    return stop - first


def _await_all_but(futures: Sequence[Future[tuple[ShardMark, Moments]]], newest: int) -> None:
    for future in futures[: max(len(futures) - newest, 0)]:
        future.result()
