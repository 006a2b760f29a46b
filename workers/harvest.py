"""The harvester: runs a model over the sequences of a unit and writes the rows of every site asked for.

B: sequences of a batch, T: tokens of its longest, d: width of a site, N: rows.
"""

import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec
import numpy as np
from torch import Tensor

from storage.dtype import DtypeName
from storage.segment import Segment
from storage.sequences import Sequences
from storage.site import Site, stored_dtype
from storage.url import Folder
from storage.value import Value
from storage.writer import UnitWriter, turns
from workers import images, metrics
from workers.batches import batches, merged, touches
from workers.feed import Feed, Feeder, Rows
from workers.model import ModelSpec, load
from workers.overlap import AHEAD, BEHIND, ahead, behind
from workers.pool import Place
from workers.shelve import Shelf, Taken, rounded
from workers.timings import Clock, Timings


class HarvestSpec(Value):
    """What every task of one harvest shares."""

    model: ModelSpec
    segment: str
    """URL of the segment's folder."""
    number: int
    """The segment's number."""
    widths: dict[str, int]
    """Width of every site, by its name."""
    dtype: DtypeName
    """Stored number type."""
    rows: Rows
    batch_tokens: int
    """Most tokens of one forward pass, padding included; a longer sequence runs alone."""
    nonfinite: bool
    """Whether rows with NaN or infinity are kept instead of ending the run."""
    sets: dict[str, tuple[int, ...]] = {}
    """Token ids of every set whose logits are harvested."""


class UnitTask(Value):
    """The rows of one unit, for the sites that lack it."""

    unit: int
    sites: tuple[Site, ...]


class UnitReceipt(Value):
    """What a harvester says when a unit is marked."""

    unit: int
    rows: int
    """Rows marked, counted once for all sites."""
    forward_tokens: int
    """Tokens the model ran over, padding not counted; 0 if every shard was there."""
    seconds: float
    """From the call to the marks."""
    busy: float
    """Of these, seconds in which the model was this unit's; of one worker's units they never overlap."""
    worker: str
    """Host and process id."""
    device: str
    """As its maker names it; `cpu` without a GPU."""
    bytes: int
    """Of the shards that were written."""
    timings: Timings


class Harvester:
    """A loaded model that turns units into whole shards; called once per unit.

    Batches are read ahead of the model, and rows stored behind it. It may be called from two threads at once: the model
    is one unit's at a time, and meanwhile the last shards of the unit before are written and marked.
    """

    def __init__(self, spec: HarvestSpec, place: Place) -> None:
        self._spec = spec
        self._batch_tokens = place.batch_tokens or spec.batch_tokens
        self._segment = Segment(Folder(spec.segment), spec.number)
        self._sequences = Sequences(self._segment)
        self._lm = load(msgspec.structs.replace(spec.model, device=place.device), with_head=bool(spec.sets))
        processor = images.load_processor(spec.model.source, spec.model.revision) if spec.rows == "patches" else None
        self._feeder = Feeder(self._segment, spec.rows, processor)
        widths = {Site.parse(name): width for name, width in spec.widths.items()}
        self._layouts = {
            site: self._segment.layout(width, stored_dtype(site, spec.dtype)) for site, width in widths.items()
        }
        self._spare: list[np.ndarray] = []
        self._turns = {site: turns() for site in widths}
        self._model = threading.Lock()

    def __call__(self, task: UnitTask) -> UnitReceipt:
        """Harvest one unit; safe to repeat, and safe to be killed at any moment."""
        started, attempt, clock = time.monotonic(), uuid.uuid4().hex[:12], Clock()
        worker = f"{platform.node()}:{os.getpid()}"
        with ThreadPoolExecutor(2, thread_name_prefix="garner-write") as executor:
            with self._model:
                begun = time.monotonic()
                writers = [self._writer(site, task.unit, executor) for site in task.sites]
                tokens = self._fill(task, writers, clock)
                busy = time.monotonic() - begun
            marks = [writer.finish(attempt, worker) for writer in writers]
        clock.add("encode", sum(writer.encoding for writer in writers))
        clock.add("write", sum(writer.writing for writer in writers))
        receipt = UnitReceipt(
            unit=task.unit,
            rows=marks[0].rows,
            forward_tokens=tokens,
            seconds=time.monotonic() - started,
            busy=busy,
            worker=worker,
            device=self._lm.hardware,
            bytes=sum(writer.written for writer in writers),
            timings=clock.timings,
        )
        metrics.count(receipt, self._spec.model.source, self._spec.segment, task.sites)
        return receipt

    def _writer(self, site: Site, unit: int, executor: ThreadPoolExecutor) -> UnitWriter:
        return UnitWriter(self._segment, site, self._layouts[site], unit, executor, self._spare, self._turns[site])

    def _fill(self, task: UnitTask, writers: Sequence[UnitWriter], clock: Clock) -> int:
        """Run every batch that a missing shard needs; how many tokens that was."""
        shelf = Shelf(self._segment, self._spec.dtype, self._spec.nonfinite, writers, clock)
        tokens = 0
        with (
            behind(shelf, BEHIND) as put,
            ahead(clock.each("read", self._feeds(task, writers)), AHEAD) as feeds,
        ):
            for feed in feeds:
                with clock.counting("forward"):
                    read = self._read(feed, task.sites)
                    rows = {site: rounded(site, read.pop(site), self._spec.dtype) for site in task.sites}
                put(Taken(feed.batch, rows))
                del rows  # they are large, and what waits is bounded
                tokens += sum(len(sequence.input_ids) for sequence in feed.batch)
        return tokens

    def _feeds(self, task: UnitTask, writers: Sequence[UnitWriter]) -> Iterator[Feed]:
        """The batches that a missing shard needs.

        A unit is cut into the same batches whatever is missing of it, so that what is made again has the same bits.
        """
        missing = merged([span for writer in writers for span in writer.missing])
        if missing:
            unit = self._sequences.touching(*self._segment.plan.unit_range(task.unit))
            for batch in batches(unit, self._segment.plan.window, self._batch_tokens):
                if any(touches(sequence, missing) for sequence in batch):
                    yield self._feeder(batch, task.sites)

    def _read(self, feed: Feed, sites: Sequence[Site]) -> dict[Site, Tensor]:
        """The rows of the batch at every site, [N, d], in the order of the batch."""
        if self._spec.rows == "entries":
            return {site: self._lm.table(site, feed.inputs["input_ids"]) for site in sites}
        if feed.kept_BT is None:
            read = self._lm.read(feed.inputs, sites)
            patches = len(feed.batch[0].input_ids)
            return {site: x_BTd[:, -patches:].flatten(0, 1) for site, x_BTd in read.items()}
        logits = {site: self._spec.sets[site.path] for site in sites if site.kind == "logits"}
        hidden = {Site("unembed") if site in logits else site: None for site in sites}
        read = self._lm.read(feed.inputs, tuple(hidden), feed.spans)
        rows = {site: _kept(read.pop(site), feed.kept_BT) for site in hidden}
        rows |= self._lm.logits(rows[Site("unembed")], logits) if logits else {}
        return {site: rows[site] for site in sites}


def _kept(x_BTd: Tensor, kept_BT: Tensor) -> Tensor:
    """Its rows, [N, d], where it is."""
    return x_BTd[kept_BT.to(x_BTd.device)]
