"""Writing shards against raw files, and shuffled reading against a raw memory-mapped gather."""

import multiprocessing
import os
import shutil
import tempfile
from pathlib import Path

import ml_dtypes
import numpy as np

from benchmarks.timing import Result, own_memory, side_by_side
from storage.layout import layout
from storage.manifest import Seal
from storage.moments import merge
from storage.reader import Shards
from storage.shard import ShardMark, empty_rows, write
from storage.shuffle import Order, Shuffled
from storage.url import Folder

_ROWS, _D, _BATCH = 2**18, 512, 4096


def writing() -> Result:
    """Bytes per second of whole shards with index, checksums and moments, synced, over plain synced files."""
    with tempfile.TemporaryDirectory() as folder:
        shape = layout(_ROWS, _D, "bfloat16", 2**16)
        x_RD = _rows(shape.rows_per_shard)
        target = Path(folder) / "shards"

        def ours() -> None:
            shutil.rmtree(target, ignore_errors=True)
            for shard in range(shape.n_shards):
                write(Folder.at(str(target)), shape, shard, x_RD)

        def raw() -> None:
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir()
            for shard in range(shape.n_shards):
                with (target / f"{shard}.bin").open("wb") as file:
                    x_RD.view(np.uint8).tofile(file)
                    os.fsync(file.fileno())

        what = "`tofile` + fsync of the same bytes; ours adds index, two checksums and moments"
        return side_by_side("write", _ROWS * _D * 2 / 1e6, "MB/s", ours, raw, what)


def reading() -> Result:
    """Shuffled batches a second, in bytes, over a gather of random rows from one memory map; both warm."""
    with tempfile.TemporaryDirectory() as folder:
        source = _Site(Path(folder), _ROWS)
        raw_ND = np.memmap(Path(folder) / "raw.bin", ml_dtypes.bfloat16, "w+", shape=(_ROWS, _D))
        raw_ND[:] = source.read_blocks([(0, _ROWS)])

        def ours() -> None:
            for _ in Shuffled(source, _BATCH, False, Order(seed=1)):
                pass

        def gather() -> None:
            order_N = np.random.default_rng(1).permutation(_ROWS)
            for at in range(0, _ROWS, _BATCH):
                raw_ND[order_N[at : at + _BATCH]]

        what = f"`memmap[permutation]` in batches of {_BATCH}, d = {_D} bfloat16"
        return side_by_side("shuffled read", _ROWS * _D * 2 / 1e6, "MB/s", ours, gather, what)


def memory() -> Result:
    """Peak resident memory of a reader of ten times the rows over that of the rows, each in its own process.

    Mapped pages are the kernel's to drop, so what is counted is memory that is the process's own.
    """
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        ten, one = (pool.apply(_read_and_measure, (_ROWS * times,)) for times in (10, 1))
    return Result("reader memory, rows x10", ten, one, "MiB", "peak memory of its own of the rows x1", 1)


def _read_and_measure(rows: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        source = _Site(Path(folder), rows)
        peak = 0.0
        for step, _ in enumerate(Shuffled(source, _BATCH, False, Order(seed=1))):
            if step % 16 == 0:
                peak = max(peak, own_memory("RssAnon"))
        return peak


class _Site:
    """One sealed site, without a cache around it."""

    def __init__(self, folder: Path, rows: int) -> None:
        target = Folder.at(str(folder / "site"))
        one = layout(rows, _D, "bfloat16", 2**16)
        marks: list[ShardMark] = []
        moments = []
        pattern = _rows(one.rows_per_shard)
        for shard in range(one.n_shards):
            x_RD = empty_rows(one, shard)
            x_RD[:] = np.roll(pattern, shard, axis=0)[: len(x_RD)]
            mark, moment = write(target, one, shard, x_RD)
            marks.append(mark)
            moments.append(moment)
        seal = Seal(site="embed", layout=one, moments=merge(moments), shards=tuple(marks))
        self._shards = Shards(target, seal)
        self.shape = (rows, _D)
        self.dtype = np.dtype(ml_dtypes.bfloat16)
        self.chunk = one.rows_per_chunk

    def read_blocks(self, blocks: list[tuple[int, int]]) -> np.ndarray:
        """Rows of blocks, each within one shard or a whole number of them."""
        step = self._shards.layout.rows_per_shard
        pieces = [(a, min(b, a + step)) for first, b in blocks for a in range(first, b, step)]
        return np.concatenate([self._shards.read(a, b) for a, b in pieces])


def _rows(n: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((n, _D), dtype=np.float32).astype(ml_dtypes.bfloat16)
