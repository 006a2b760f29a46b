"""int8 and zstd: what is stored is smaller, what is read as exact as is said, and statistics are of what is stored."""

import numpy as np
import pytest
from conftest import Doc, build_cache

from storage import Lake
from storage.dtype import BLOCK, decode, encode, stored_width
from storage.moments import measure, merge
from storage.url import Folder


def documents(count):
    return [Doc(" ".join(f"w{n % 5}" for n in range(7))) for _ in range(count)]


def states(n, d, seed=0):
    """Rows with a few massive dimensions and scales of their own, as hidden states have."""
    rng = np.random.default_rng(seed)
    scale_D = np.exp(rng.standard_normal(d))
    scale_D[:2] *= 60
    return (rng.standard_normal((n, d)) * scale_D).astype(np.float32)


@pytest.fixture(params=["disk", "memory"])
def lake(request, tmp_path):
    return Lake(str(tmp_path / "lake") if request.param == "disk" else f"memory://{tmp_path.name}")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr("storage.layout.CHUNK_BYTES", 2**12)
    monkeypatch.setattr("storage.layout.SHARD_BYTES", 2**14)
    monkeypatch.setattr("storage.shuffle.WINDOW_ROWS", 100)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int8"])
def test_zstd_gives_back_every_bit_in_every_way_of_reading(lake, dtype):
    x = np.round(states(700, 24), 1)
    plain, packed = (
        build_cache(lake, {"embed": x}, [documents(60), documents(40)], dtype, f"made.{c}", 64, c).site("embed")
        for c in ("none", "zstd")
    )
    some = np.random.default_rng(1).permutation(700)[:333]
    np.testing.assert_array_equal(packed[:], plain[:])
    np.testing.assert_array_equal(packed[some], plain[some])
    np.testing.assert_array_equal(packed[130:477], plain[130:477])
    for one, other in zip(packed.shuffled(64, with_rows=True), plain.shuffled(64, with_rows=True), strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])
    assert packed.moments == plain.moments


def test_zstd_is_smaller_and_its_shards_say_how_much(tmp_path):
    x = np.round(states(700, 24), 1)
    lake = Lake(str(tmp_path))
    sizes = {}
    for compress in ("none", "zstd"):
        cache = build_cache(lake, {"embed": x}, [documents(100)], "float32", f"made.{compress}", 64, compress)
        marks = cache.segments[0].read_seal(cache.sites[0]).shards
        files = sorted((cache.folder.local / "segments/00000/sites/embed").glob("c.*"))
        assert sum(file.stat().st_size for file in files) == sum(mark.size for mark in marks)
        sizes[compress] = sum(mark.size for mark in marks)
    assert sizes["zstd"] < 0.8 * sizes["none"]


@pytest.mark.parametrize("d", [1, 63, 64, 65, 384])
def test_no_int8_entry_is_further_off_than_half_its_scale(d):
    x = states(300, d)
    z = encode("int8", x)
    assert z.shape == (300, stored_width("int8", d))
    assert z.dtype == np.int8
    off = np.abs(decode("int8", z, d) - x)
    peaks = [np.abs(x[:, at : at + BLOCK]).max(axis=1) for at in range(0, d, BLOCK)]
    half = np.repeat(np.stack(peaks, axis=1), BLOCK, axis=1)[:, :d] / 127 / 2
    assert (off <= half * 1.00001).all()


def test_a_massive_dimension_does_not_drown_the_others():
    x = states(4096, 384)
    scale = np.abs(x).max(axis=1, keepdims=True) / 127
    one_scale_a_row = np.rint(x / scale) * scale
    lost, lost_to_one = (
        np.median((((y - x) ** 2).sum(axis=0) / ((x - x.mean(axis=0)) ** 2).sum(axis=0))[BLOCK:])
        for y in (decode("int8", encode("int8", x), 384), one_scale_a_row)
    )
    assert lost < 2e-3
    assert lost_to_one > 20 * lost


def test_the_error_that_an_int8_site_reports_is_the_one_it_makes(lake):
    x = states(700, 384)
    acts = build_cache(lake, {"embed": x}, [documents(60), documents(40)], "int8", unit=64).site("embed")
    true = ((acts[:] - x) ** 2).sum()
    assert acts.moments.rounding == pytest.approx(true, rel=0.05)
    assert acts.moments.unexplained == pytest.approx(true / ((x - x.mean(axis=0)) ** 2).sum(), rel=0.05)
    assert build_cache(lake, {"embed": x}, [documents(100)], "bfloat16", unit=64).site("embed").moments.rounding == 0


def test_rows_that_are_not_finite_stay_so_in_int8():
    x = states(10, 130)
    x[3, 5], x[4, 129], x[5] = np.inf, np.nan, 0
    y = decode("int8", encode("int8", x), 130)
    assert (~np.isfinite(y)).any(axis=1).tolist() == [False, False, False, True, True, *[False] * 5]
    assert np.isfinite(y[3, BLOCK:]).all()
    assert (y[5] == 0).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int8"])
def test_statistics_are_those_of_the_rows_as_they_are_read(lake, dtype):
    x = states(700, 24)
    x[:, 3] += 500  # far from 0 compared with its spread
    x[17] = 0
    acts = build_cache(lake, {"embed": x}, [documents(60), documents(40)], dtype, unit=64).site("embed")
    exact, found = acts[:].astype(np.float64), acts.moments
    np.testing.assert_allclose(found.mean, exact.mean(0), atol=1e-6 * exact.std(0).max())
    np.testing.assert_allclose(found.variance, exact.var(0), rtol=1e-5)
    assert found.max_abs == np.abs(exact).max()
    norms = np.linalg.norm(exact, axis=1)
    assert (found.norms.count, found.norms.zeros) == (700, 1)
    for q in (0, 0.01, 0.25, 0.5, 0.9, 0.99, 1):
        assert found.norms.quantile(q) == pytest.approx(np.quantile(norms, q, method="lower"), rel=0.01)


def test_merging_in_any_order_gives_the_same_counts_and_quantiles():
    x = states(5000, 16)
    whole = measure(x)
    pieces = [measure(part) for part in np.split(x, [7, 900, 901, 4000])]
    for order in ([0, 1, 2, 3, 4], [4, 2, 0, 3, 1]):
        merged = merge(pieces[n] for n in order)
        assert merged.norms == whole.norms
        np.testing.assert_allclose(merged.mean, whole.mean, atol=1e-6)
        np.testing.assert_allclose(merged.variance, whole.variance, rtol=1e-6)
    assert merge([]).norms.count == 0
    assert np.isnan(merge([]).norms.quantile(0.5))


def test_huge_and_tiny_values_do_not_overflow_their_statistics():
    x = np.array([[1e30, 1.0], [-1e30, 2.0], [1e-30, 3.0]], np.float32)
    found = measure(x)
    assert np.isfinite(found.m2_D).all()
    np.testing.assert_allclose(found.variance, x.astype(np.float64).var(0), rtol=1e-5)


def test_statistics_are_there_without_reading_a_row(lake, monkeypatch):
    cache = build_cache(lake, {"embed": states(700, 24)}, [documents(100)], unit=64)
    for shard in cache.folder.names("segments/00000/sites/embed"):
        cache.folder.remove(f"segments/00000/sites/embed/{shard}")
    assert cache.site("embed").moments.norms.quantile(0.5) > 0


def test_slices_read_the_chunks_they_lie_in_and_no_more(lake, monkeypatch):
    x = states(700, 64)
    cache = build_cache(Lake(f"memory://{id(lake)}"), {"embed": x}, [documents(60), documents(40)], unit=512)
    acts, asked, true_ranges = cache.site("embed"), [], Folder.ranges

    def ranges(self, wanted):
        asked.extend(stop - start for _, start, stop in wanted)
        return true_ranges(self, wanted)

    monkeypatch.setattr(Folder, "ranges", ranges)
    chunk, size = acts.chunk, acts.chunk * acts.row_bytes
    assert chunk == 16
    rows = cache.tokens.document_rows(13)  # 7 rows in one or two chunks
    np.testing.assert_array_equal(acts[rows], x[rows])
    assert sum(asked) == size * len(np.unique(rows // chunk))
    asked.clear()
    np.testing.assert_array_equal(acts[100:140], x[100:140])
    assert sum(asked) == size * 3
    asked.clear()
    every_last = np.array([cache.tokens.document_rows(n)[-1] for n in range(0, 100, 20)])
    np.testing.assert_array_equal(acts[every_last], x[every_last])
    assert sum(asked) == size * len(
        np.unique(np.where(every_last < 420, every_last // chunk, 1000 + (every_last - 420) // chunk))
    )
