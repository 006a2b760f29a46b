"""Neighbours, LLE weights and local dimension of vocabularies, against scikit-learn: `python -m benchmarks.geometry`.

Both sides run on one thread, in turns, on the same points. Where scikit-learn's way of doing all of it would take too
long it does a part of the points, and its rate is that of the part.

N points, D width, K neighbours, Q queried points.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.manifold._locally_linear import barycenter_weights
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

from benchmarks.timing import Result, own_memory, side_by_side, table
from jobs.core.linalg import barycentric_weights
from jobs.core.neighbours import nearest, neighbourhoods
from jobs.geometry.dimension import local_dimension, spectra

K, REG = 10, 1e-3
DIMENSION_K, TAU = 1200, 0.95


def points(n: int, width: int) -> np.ndarray:
    """float32 [N, D] with a spectrum that falls as a word table's does, in clusters."""
    rng = np.random.default_rng(0)
    scale = np.arange(1, width + 1) ** -0.25
    centres = rng.normal(size=(200, width)) * scale
    return ((centres[rng.integers(200, size=n)] + rng.normal(size=(n, width)) * scale) / width**0.5).astype(np.float32)


def weights(x_ND: np.ndarray, queries: int, repeats: int) -> Result:
    """Exact neighbours and LLE weights; both sides for the same points."""
    x, chosen = torch.from_numpy(x_ND), torch.arange(queries)
    found: dict[str, np.ndarray] = {}

    def ours() -> None:
        near_QK = nearest(x, K, chosen).indices_QK
        found["ours"] = barycentric_weights(x, chosen, near_QK, REG)[0].numpy()

    def baseline() -> None:
        near = NearestNeighbors(n_neighbors=K + 1, algorithm="brute").fit(x_ND)
        indices = near.kneighbors(x_ND[:queries], return_distance=False)[:, 1:]
        found["theirs"] = barycenter_weights(x_ND[:queries].astype(np.float64), x_ND.astype(np.float64), indices, REG)

    result = side_by_side(
        f"neighbours and LLE weights, {len(x_ND):,} x {x_ND.shape[1]}, k = {K}", queries, "points/s", ours, baseline,
        "NearestNeighbors (brute) and barycenter_weights", repeats,
    )  # fmt: skip
    same = np.abs(np.sort(found["ours"], 1) - np.sort(found["theirs"], 1)).max(1) < 1e-3
    print(
        f"weights agree to 1e-3 at {same.mean():.2%} of the points (float32 distances tie elsewhere)", file=sys.stderr
    )
    return result


def dimension(x_ND: np.ndarray, queries: int, repeats: int) -> Result:
    """Local dimension of some points; their neighbours are found on both sides."""
    x, chosen = torch.from_numpy(x_ND), torch.arange(queries)
    found: dict[str, np.ndarray] = {}

    def ours() -> None:
        spectra_QM = spectra(x, neighbourhoods(x, DIMENSION_K, chosen), TAU)
        found["ours"] = local_dimension(spectra_QM, TAU).numpy()

    def baseline() -> None:
        near = NearestNeighbors(n_neighbors=DIMENSION_K + 1, algorithm="brute").fit(x_ND)
        indices = near.kneighbors(x_ND[:queries], return_distance=False)[:, 1:]
        ratios = (PCA().fit(x_ND[some]).explained_variance_ratio_.cumsum() for some in indices)
        found["theirs"] = np.array([int((ratio < TAU).sum()) + 1 for ratio in ratios])

    result = side_by_side(
        f"local dimension, {len(x_ND):,} x {x_ND.shape[1]}, k = {DIMENSION_K}", queries, "points/s", ours, baseline,
        "NearestNeighbors (brute) and PCA of each neighbourhood", repeats,
    )  # fmt: skip
    print(f"dimensions agree at {(found['ours'] == found['theirs']).mean():.0%} of the points", file=sys.stderr)
    return result


def whole(n: int, width: int, queries: int) -> str:
    """All weights and some dimensions of a large table, ours alone: time and peak memory."""
    x = torch.from_numpy(points(n, width))
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is that of making the points
    started, before = time.perf_counter(), own_memory("VmRSS")
    chosen = torch.arange(queries)
    barycentric_weights(x, chosen, nearest(x, K, chosen).indices_QK, REG)
    spectra(x, neighbourhoods(x, DIMENSION_K, torch.arange(20)), TAU)
    seconds = time.perf_counter() - started
    return (
        f"{n:,} x {width}: weights of {queries:,} points and dimensions of 20 in {seconds:.0f} s, "
        f"{own_memory('VmHWM') - before:,.0f} MiB beyond the table"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """The table, and a large vocabulary by ourselves."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.geometry", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--large", type=int, default=2000, help="points of the large table that are looked at")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with threadpool_limits(1):
        x_ND = points(30_000, 384)
        results = [weights(x_ND, 4000, chosen.repeats), dimension(x_ND, 100, chosen.repeats)]
        print(table(results))
        print(whole(128_000, 1024, chosen.large))


if __name__ == "__main__":
    main()
