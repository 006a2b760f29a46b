"""The harvester: runs a model over the sequences of a unit and writes the rows of every site asked for.

B: sequences of a batch, T: tokens of its longest, d: width of a site, N: rows.
"""

import os
import platform
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, assert_never

import ml_dtypes
import msgspec
import numpy as np
import torch
from torch import Tensor

from storage.dtype import DtypeName, largest, logical
from storage.errors import RunError
from storage.index import TokenIndex
from storage.segment import Segment
from storage.sequences import Sequence as TokenSequence
from storage.sequences import Sequences
from storage.site import FIRST, Site, stored_dtype
from storage.url import Folder
from storage.value import Value
from storage.writer import UnitWriter
from workers import images
from workers.batches import batches, kept, merged, padded, touches
from workers.mass import indicators
from workers.model import ModelSpec, load
from workers.pool import Place

Rows = Literal["tokens", "patches", "entries"]
"""What a row stands for: a token of a text, a patch of an image, an entry of the vocabulary."""


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
    worker: str
    """Host and process id."""


class Harvester:
    """A loaded model that turns units into whole shards; called once per unit."""

    def __init__(self, spec: HarvestSpec, place: Place) -> None:
        self._spec = spec
        self._batch_tokens = place.batch_tokens or spec.batch_tokens
        self._segment = Segment(Folder(spec.segment), spec.number)
        self._sequences = Sequences(self._segment)
        self._spare: list[np.ndarray] = []
        self._lm = load(msgspec.structs.replace(spec.model, device=place.device), with_head=bool(spec.sets))
        self._processor = (
            images.load_processor(spec.model.source, spec.model.revision) if spec.rows == "patches" else None
        )
        self._layouts = {
            site: self._segment.layout(width, stored_dtype(site, spec.dtype))
            for site, width in ((Site.parse(name), width) for name, width in spec.widths.items())
        }

    def __call__(self, task: UnitTask) -> UnitReceipt:
        """Harvest one unit; safe to repeat, and safe to be killed at any moment."""
        started, attempt = time.monotonic(), uuid.uuid4().hex[:12]
        worker = f"{platform.node()}:{os.getpid()}"
        with ThreadPoolExecutor(2, thread_name_prefix="garner-write") as executor:
            writers = [
                UnitWriter(self._segment, site, self._layouts[site], task.unit, executor, self._spare)
                for site in task.sites
            ]
            tokens = self._fill(task, writers)
            marks = [writer.finish(attempt, worker) for writer in writers]
        return UnitReceipt(
            unit=task.unit,
            rows=marks[0].rows,
            forward_tokens=tokens,
            seconds=time.monotonic() - started,
            worker=worker,
        )

    def _fill(self, task: UnitTask, writers: Sequence[UnitWriter]) -> int:
        """Run every batch that a missing shard needs; how many tokens that was.

        A unit is cut into the same batches whatever is missing of it, so that what is made again has the same bits.
        """
        missing = merged([span for writer in writers for span in writer.missing])
        tokens = 0
        if missing:
            unit = self._sequences.touching(*self._segment.plan.unit_range(task.unit))
            for batch in batches(unit, self._segment.plan.window, self._batch_tokens):
                if any(touches(sequence, missing) for sequence in batch):
                    self._run(batch, writers)
                    tokens += sum(len(sequence.input_ids) for sequence in batch)
        return tokens

    def _run(self, batch: Sequence[TokenSequence], writers: Sequence[UnitWriter]) -> None:
        sites = [writer.site for writer in writers]
        read = self._read(batch, sites)
        edges = np.cumsum([sequence.n_rows for sequence in batch])[:-1]
        for writer in writers:
            x_ND = self._stored(writer.site, read[writer.site], batch)
            for sequence, rows in zip(batch, np.split(x_ND, edges), strict=True):
                writer.put(sequence.start, rows)

    def _read(self, batch: Sequence[TokenSequence], sites: Sequence[Site]) -> dict[Site, Tensor]:
        """The rows of the batch at every site, [N, d], in the order of the batch."""
        lengths = torch.tensor([len(sequence.input_ids) for sequence in batch])
        match self._spec.rows:
            case "entries":
                ids_N = torch.from_numpy(np.concatenate([sequence.input_ids for sequence in batch])).long()
                return {site: self._lm.table(site, ids_N) for site in sites}
            case "tokens":
                return self._read_text(batch, lengths, sites)
            case "patches":
                pixels_BCHW = images.pixels(self._processor, [sequence.image or b"" for sequence in batch])
                read = self._lm.read({"pixel_values": pixels_BCHW}, sites)
                kept = int(lengths[0])
                return {site: x_BTd[:, -kept:].flatten(0, 1) for site, x_BTd in read.items()}
            case _:
                assert_never(self._spec.rows)

    def _read_text(self, batch: Sequence[TokenSequence], lengths: Tensor, sites: Sequence[Site]) -> dict[Site, Tensor]:
        ids_BT, mask_BT = padded(batch, lengths)
        spans = self._spans(batch, {site.path for site in sites if site.kind == "mass"}, ids_BT.shape[1])
        logits = {site: self._spec.sets[site.path] for site in sites if site.kind == "logits"}
        hidden = {Site("unembed") if site in logits else site: None for site in sites}
        read = self._lm.read({"input_ids": ids_BT, "attention_mask": mask_BT}, tuple(hidden), spans)
        kept_BT = kept(batch, mask_BT)
        rows = {site: x_BTd[kept_BT.to(x_BTd.device)] for site, x_BTd in read.items()}
        return rows | (self._lm.logits(rows[Site("unembed")], logits) if logits else {})

    def _spans(self, batch: Sequence[TokenSequence], spans: set[str], length: int) -> dict[str, Tensor]:
        """Which tokens each span holds, bool [B, T], once every sequence is known to tell."""
        for sequence in batch if spans - {FIRST} else ():
            if sequence.roles is None:
                raise RunError(
                    f"mass of {', '.join(sorted(spans - {FIRST}))}, document {self._document(sequence.start)!r}: what "
                    "the chat template writes does not tell where its messages stand; leave the document out, or the "
                    "mass of roles"
                )
        return indicators(batch, spans, length)

    def _document(self, row: int) -> str:
        """Id of the document of a row of the segment."""
        tokens = TokenIndex([self._segment])
        return str(tokens.document_ids[tokens.documents(np.array([row]))[0]])

    def _stored(self, site: Site, x_Nd: Tensor, batch: Sequence[TokenSequence]) -> np.ndarray:
        """Rows in the site's logical dtype as NumPy; the only way from torch to storage."""
        dtype = stored_dtype(site, self._spec.dtype)
        kept_Nd = x_Nd.to(getattr(torch, logical(dtype).name))
        if not self._spec.nonfinite and not bool(torch.isfinite(kept_Nd).all()):
            self._refuse(site, x_Nd, kept_Nd, batch)
        kept_Nd = kept_Nd.cpu()
        if dtype == "bfloat16":
            return kept_Nd.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return kept_Nd.numpy()

    def _refuse(self, site: Site, x_Nd: Tensor, kept_Nd: Tensor, batch: Sequence[TokenSequence]) -> None:
        """Name the first document whose row is not finite, and say what to do."""
        bad = int((~torch.isfinite(kept_Nd).all(dim=1)).nonzero()[0])
        rows = np.concatenate([np.arange(s.start, s.start + s.n_rows) for s in batch])
        document = self._document(int(rows[bad]))
        if torch.isfinite(x_Nd[bad]).all():
            top = float(x_Nd[bad].abs().max())
            raise RunError(
                f"site {site}, document {document!r}: {top:.3g} is over {self._spec.dtype}'s largest number "
                f'{largest(self._spec.dtype):.3g}; set dtype = "bfloat16" for this cache'
            )
        raise RunError(
            f"site {site}, document {document!r}: the model gave NaN or infinity; mend the model or the document, "
            "or set nonfinite = true for this cache to keep such rows"
        )
