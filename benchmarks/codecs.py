"""What stored types and compression cost and save, on real hidden states: `python -m benchmarks.codecs`."""

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.files import SITE, harvested
from benchmarks.material import states
from storage.dtype import DtypeName, logical
from storage.layout import Compress
from storage.reader import Activations
from storage.segment import Segment
from storage.url import Folder

_ROWS, _BATCH, _REPEATS = 2**16, 4096, 5
_KINDS: tuple[tuple[DtypeName, Compress], ...] = (
    ("bfloat16", "none"), ("bfloat16", "zstd"), ("float16", "none"), ("float16", "zstd"), ("float32", "none"),
    ("float32", "zstd"), ("int8", "none"), ("int8", "zstd"),
)  # fmt: skip


def main() -> None:
    """Print the table; every cell is a median of alternating rounds."""
    x_ND = states(_ROWS)
    with tempfile.TemporaryDirectory() as folder:
        rounds = [[_measured(Path(folder), x_ND, *kind) for kind in _KINDS] for _ in range(_REPEATS)]
    print("| stored as | bytes a row | M rows/s written | read shuffled | variance lost (FVU) | as the seal says |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for number, (dtype, compress) in enumerate(_KINDS):
        size, write, read, lost, said = (statistics.median(one[number][at] for one in rounds) for at in range(5))
        name = dtype if compress == "none" else f"{dtype}, {compress}"
        print(f"| {name} | {size:,.0f} | {write:.2f} | {read:.2f} | {lost:.1e} | {said:.1e} |")


def _measured(
    folder: Path, x_ND: np.ndarray, dtype: DtypeName, compress: Compress
) -> tuple[float, float, float, float, float]:
    """Bytes a row, million rows a second written and read, variance lost, and the loss that the seal reports."""
    lake = folder / "lake"
    shutil.rmtree(lake, ignore_errors=True)
    rows_ND = x_ND.astype(logical(dtype))
    write = _timed(lambda: harvested(Folder.at(str(lake)), len(x_ND), rows_ND, dtype, compress))
    (path,) = lake.glob("segments/*")
    acts = Activations(SITE, [Segment(Folder.at(str(path)), 0)])
    size = sum(file.stat().st_size for file in (path / "sites" / str(SITE)).glob("c.*"))
    read = _timed(lambda: [None for _ in acts.shuffled(_BATCH, seed=0)])
    y_ND = acts[:].astype(np.float64)
    lost = ((y_ND - x_ND) ** 2).sum() / ((x_ND - x_ND.mean(axis=0)) ** 2).sum()
    return size / len(x_ND), len(x_ND) / write / 1e6, len(x_ND) / read / 1e6, float(lost), acts.moments.unexplained


def _timed(act: Callable[[], object]) -> float:
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
