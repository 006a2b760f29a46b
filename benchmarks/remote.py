"""Shuffled reading from a real S3 server on this machine, against parallel ranged GETs of the same objects."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import fsspec
import ml_dtypes
import numpy as np

from benchmarks.files import SITE, harvested
from benchmarks.timing import Result, side_by_side
from storage.reader import Activations
from storage.segment import Segment
from storage.shard import key
from storage.url import Folder
from tests.s3.server import missing, serve

_ROWS, _D, _BATCH, _IN_FLIGHT = 2**18, 512, 4096, 64


def shuffled() -> Result | None:
    """Bytes per second of shuffled batches over those of the same chunks fetched so; None without Ceph."""
    if missing():
        return None
    with _lake() as lake:
        rows = np.random.default_rng(0).standard_normal((2**16, _D), dtype=np.float32).astype(ml_dtypes.bfloat16)
        segment = harvested(Folder.at(f"{lake}/bench"), _ROWS, rows)
        acts = Activations(SITE, [Segment(segment.folder, 0)])
        fs, ranges = fsspec.filesystem("s3", config_kwargs={"max_pool_connections": _IN_FLIGHT}), _chunks(segment)

        def ours() -> None:
            for _ in acts.shuffled(_BATCH, seed=1):
                pass

        def gets() -> None:
            order = np.random.default_rng(1).permutation(len(ranges))
            for at in range(0, len(order), _IN_FLIGHT):
                paths, starts, stops = zip(*(ranges[n] for n in order[at : at + _IN_FLIGHT]), strict=True)
                fs.cat_ranges(list(paths), list(starts), list(stops), batch_size=_IN_FLIGHT)

        what = f"s3fs, {_IN_FLIGHT} ranged GETs of 1 MiB at once, nothing done with the bytes"
        return side_by_side("shuffled read, S3", _ROWS * _D * 2 / 1e6, "MB/s", ours, gets, what)


def _chunks(segment: Segment) -> list[tuple[str, int, int]]:
    """(object, first byte, end) of every inner chunk of the site."""
    layout, folder = segment.read_seal(SITE).layout, segment.array(SITE)
    size = layout.chunk_bytes
    return [
        (f"{folder.url}/{key(shard)}", at * size, (at + 1) * size)
        for shard in range(layout.n_shards)
        for at in range(layout.chunks_in(shard))
    ]


@contextmanager
def _lake() -> Iterator[str]:
    """A bucket on a server of this process's own."""
    with serve() as server:
        before = dict(os.environ)
        os.environ.update(server.environment)
        try:
            yield server.make_bucket("bench")
        finally:
            os.environ.clear()
            os.environ.update(before)
