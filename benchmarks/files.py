"""Shards written, read in order and read shuffled, against the plainest way of doing the same with raw files."""

import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import ml_dtypes
import numpy as np

from benchmarks.timing import Result, own_memory, side_by_side
from storage.dtype import DtypeName
from storage.layout import Compress, shard_bytes
from storage.manifest import Claim, SourceFile
from storage.reader import Activations
from storage.segment import Segment, part_name
from storage.site import Site
from storage.tokens import Span, write_part
from storage.url import Folder
from storage.writer import UnitWriter

_ROWS, _D, _BATCH = 2**19, 512, 4096
_UNIT = 2**19
SITE = Site("embed")


def writing() -> Result:
    """Bytes per second from rows to marked units, as a harvester writes them, over plain synced files."""
    with tempfile.TemporaryDirectory() as folder:
        rows = _rows(2**16)
        size = _ROWS * _D * 2

        def ours() -> None:
            shutil.rmtree(Path(folder) / "lake", ignore_errors=True)
            harvested(Folder.at(f"{folder}/lake"), _ROWS, rows)

        def raw() -> None:
            target = Path(folder) / "raw"
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir()
            for number in range(_ROWS // len(rows)):
                with (target / f"{number}.bin").open("wb") as file:
                    rows.view(np.uint8).tofile(file)
                    os.fsync(file.fileno())

        what = "`tofile` + fsync of the same bytes in files of 64 MiB; ours adds index, checksums, moments, marks"
        return side_by_side("write", size / 1e6, "MB/s", ours, raw, what)


def shuffled() -> Result:
    """Shuffled batches a second, in bytes, over a gather of random rows from one memory map; both warm, all checked."""
    with _both() as (acts, raw):
        raw_ND = np.memmap(raw, np.uint16, "r", shape=acts.shape)

        def ours() -> None:
            for _ in acts.shuffled(_BATCH, seed=1):
                pass

        def gather() -> None:
            order_N = np.random.default_rng(1).permutation(len(acts))
            for at in range(0, len(acts), _BATCH):
                raw_ND[order_N[at : at + _BATCH]]

        what = f"`memmap[permutation]` in batches of {_BATCH}, d = {_D} in 16 bits"
        return side_by_side("shuffled read", _size(acts), "MB/s", ours, gather, what)


def contiguous() -> list[Result]:
    """A long range of rows over `np.fromfile`: from an open reader, and opened and touched for the first time."""
    with _both() as (acts, raw):

        def fromfile() -> None:
            np.fromfile(raw, np.uint16)

        def first_touch() -> None:
            Activations(SITE, [_segment(raw.parent)])[:]

        def again() -> None:
            acts[:]

        what = "`np.fromfile` of the same bytes"
        return [
            side_by_side("contiguous read", _size(acts), "MB/s", again, fromfile, what),
            side_by_side("contiguous, first touch", _size(acts), "MB/s", first_touch, fromfile, f"{what}; ours checks"),
        ]


def memory() -> Result:
    """Peak resident memory of a reader of ten times the rows over that of the rows, each in its own process.

    Mapped pages are the kernel's to drop, so what is counted is memory that is the process's own.
    """
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        ten, one = (pool.apply(_read_and_measure, (_ROWS * times,)) for times in (10, 1))
    return Result("reader memory, rows x10", ten, one, "MiB", "peak memory of its own of the rows x1", 1)


def _read_and_measure(rows: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        harvested(Folder.at(f"{folder}/lake"), rows, _rows(2**16))
        acts, peak = Activations(SITE, [_segment(Path(folder))]), 0.0
        for step, _ in enumerate(acts.shuffled(_BATCH, seed=1)):
            if step % 16 == 0:
                peak = max(peak, own_memory("RssAnon"))
        return peak


@contextmanager
def _both() -> Iterator[tuple[Activations, Path]]:
    """The same rows as a sealed site and as one raw file."""
    with tempfile.TemporaryDirectory() as folder:
        rows = _rows(2**16)
        harvested(Folder.at(f"{folder}/lake"), _ROWS, rows)
        raw = Path(folder) / "raw.bin"
        with raw.open("wb") as file:
            for _ in range(_ROWS // len(rows)):
                rows.view(np.uint8).tofile(file)
        yield Activations(SITE, [_segment(Path(folder))]), raw


def _segment(folder: Path) -> Segment:
    (found,) = (folder / "lake").glob("segments/*")
    return Segment(Folder.at(str(found)), 0)


def harvested(
    cache: Folder, rows: int, x_ND: np.ndarray, dtype: DtypeName = "bfloat16", compress: Compress = "none"
) -> Segment:
    """A sealed segment of one site: `x_ND`, repeated, written as a harvester writes it, eight shards to a unit."""
    segment = Segment(cache / "segments/00000", 0)
    files = (SourceFile(path="rows", size=1),)
    segment.claim(Claim(files=files, parts=((0,),), unit=_UNIT, shard_bytes=shard_bytes(), compress=compress))
    write_part(segment.folder, part_name(0), _spans(rows))
    segment.fix()
    layout = segment.layout(x_ND.shape[1], dtype)
    segment.create_array(SITE, layout)
    spare: list[np.ndarray] = []
    for unit in range(segment.plan.n_units):
        with ThreadPoolExecutor(2) as executor:
            writer = UnitWriter(segment, SITE, layout, unit, executor, spare)
            for row in range(*segment.plan.unit_range(unit), _BATCH):
                at = row % len(x_ND)
                writer.put(row, x_ND[at : at + _BATCH])
            writer.finish("bench", "bench")
    segment.seal(SITE, layout)
    return segment


def _spans(rows: int) -> Iterator[Span]:
    for number in range(rows // 1024):
        yield Span(number, number, str(number), np.zeros(1024, np.int32), None, None, None, 0, {}, None)


def _size(acts: Activations) -> float:
    return len(acts) * acts.row_bytes / 1e6


def _rows(n: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((n, _D), dtype=np.float32).astype(ml_dtypes.bfloat16)
