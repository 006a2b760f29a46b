"""The side of a measurement that runs in a system's own environment: one JSON line in, one out.

Imported there, so it needs the standard library and NumPy only.
"""

import gc
import itertools
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from benchmarks.peers import pages
from benchmarks.peers.material import BATCH, Finder, Material
from benchmarks.timing import own_memory

Harvest = Callable[[Material, Path], None]
"""Fill an empty folder with the rows of the material."""
Read = Callable[[Material, Path, int], Iterator[Any]]
"""Shuffled batches [B, D], for so many epochs; one that never ends is cut."""


@dataclass(frozen=True)
class Worker:
    """What can be asked of a system, which keeps its rows in `store`."""

    material: Material
    store: Path
    read: Read | None
    fill: Harvest | None

    def harvest(self) -> dict[str, Any]:
        """Seconds from nothing to rows that are on the disk, synced."""
        assert self.fill is not None
        shutil.rmtree(self.store, ignore_errors=True)
        self.store.mkdir(parents=True)
        started = time.perf_counter()
        self.fill(self.material, self.store)
        pages.sync(self.store)
        return {"seconds": time.perf_counter() - started, "rows": len(self.material.truth)}

    def epoch(self, cold: bool = False, epochs: int = 1) -> dict[str, Any]:
        """Rows a second over `epochs`, from opening the store on, with at least a number of every row looked at."""
        gc.collect()  # a map that is still open keeps its pages
        if cold:
            pages.drop(self.store)
        share, before = pages.held(self.store), own_memory("RssAnon")
        rows, first = 0, 0.0
        with Peak() as peak:
            started = time.perf_counter()
            for x_BD in self._batches(epochs):
                first = first or time.perf_counter() - started
                rows += len(x_BD)
                float(x_BD[:, 0].sum())
            seconds = time.perf_counter() - started
        memory = {"memory": max(peak.value, before), "before": before}
        return {"seconds": seconds, "rows": rows, "first": first, "held": share} | memory

    def check(self) -> dict[str, Any]:
        """Which rows an epoch brings, and how far they are from plain transformers'."""
        find, seen_N, gaps = Finder(self.material.truth), np.zeros(len(self.material.truth), np.int64), []
        for x_BD in self._batches(1):
            rows_B, same_B, gap_B = find(np.asarray(x_BD, np.float32))
            np.add.at(seen_N, rows_B[same_B], 1)
            gaps.append((len(x_BD), gap_B[same_B].max(initial=0.0)))
        delivered = sum(rows for rows, _ in gaps)
        unique, foreign = int((seen_N > 0).sum()), delivered - int(seen_N.sum())
        gap = max(float(gap) for _, gap in gaps)
        return {"delivered": delivered, "unique": unique, "foreign": foreign, "gap": gap}

    def _batches(self, epochs: int) -> Iterator[Any]:
        """As many batches as hold every row `epochs` times: some systems begin again without saying so."""
        assert self.read is not None
        enough = epochs * -(-len(self.material.truth) // BATCH)
        return itertools.islice(self.read(self.material, self.store, epochs), enough)


class Peak:
    """The largest anonymous memory of this process meanwhile, in MiB, looked at every 10 ms.

    Mapped pages are the kernel's to take back, so they do not count.
    """

    def __init__(self) -> None:
        self.value, self._over = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "Peak":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.01):
            self.value = max(self.value, own_memory("RssAnon"))


def serve(read: Read | None, fill: Harvest | None = None) -> None:
    """Answer `{"ask": "harvest" | "epoch" | "check", ...}` lines until there are no more."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints must not be taken for an answer
    worker = Worker(Material(Path(sys.argv[1])), Path(sys.argv[2]), read, fill)
    for line in sys.stdin:
        question = json.loads(line)
        try:
            answer = getattr(worker, question.pop("ask"))(**question)
        except Exception as error:  # goes into the table
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers)
