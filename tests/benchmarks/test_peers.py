"""What can be said of the comparison without the other systems: its arithmetic, and garner's own side of it."""

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers import pages
from benchmarks.peers.material import Finder
from benchmarks.peers.prepare import prepare
from benchmarks.peers.session import Session
from benchmarks.peers.side_by_side import Bench, System
from benchmarks.peers.table import Line, harvest_table, rate, read_table


def answer(seconds, rows=1000, **more):
    return {"seconds": seconds, "rows": rows, "first": 0.1, "memory": 20.0, "before": 10.0, "held": 0.0} | more


CHECK = {"delivered": 1000, "unique": 990, "foreign": 1, "gap": 2.5e-6}
OURS = Line("garner", 1024, 2_048_000, 1000, (answer(1.0),), (answer(0.5),), (answer(1.0),), CHECK)


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("material"), sequences=40, context=16, width=32)


def test_a_rate_is_the_median_of_rounds():
    assert rate([answer(1.0), answer(10.0), answer(2.0)]) == 500
    assert rate([]) == 0


def test_the_read_table_has_the_ratio_to_ours_losses_included():
    slow, fast = (Line(name, 1024, warm=(answer(seconds),)) for name, seconds in (("slow", 5.0), ("fast", 0.25)))
    _, _, ours, slower, faster = read_table([OURS, slow, fast], OURS).splitlines()
    assert (
        "| 2,000 | 2 | 1.00x | 1,000 | 1.00x | 0.10 s / 0.10 s | 20 MiB (10) | 990 of 1,000, 1 unknown | 2.5e-06 |"
        in ours
    )
    assert "| 200 | 0 | 10.00x | - | - |" in slower
    assert "| 4,000 | 4 | 0.50x |" in faster


def test_what_could_not_be_measured_is_said_and_has_no_number():
    text = read_table([OURS, Line("other", error="ImportError:\nno")], OURS).splitlines()[-1]
    assert text.startswith("| other | not measured: ImportError: no |")
    assert text.count("|") == read_table([OURS], OURS).splitlines()[0].count("|")


def test_the_harvest_table_lists_only_what_harvests():
    text = harvest_table([OURS, Line("reader", warm=(answer(1.0),))], OURS)
    assert "| garner | 1,000 | 1.00x | 2,048 | 2.5e-06 |" in text
    assert "reader" not in text


def test_the_finder_knows_rows_that_differ_in_their_last_bits_or_in_their_mean(material):
    x_ND = np.array(material.truth)
    order_N = np.random.default_rng(0).permutation(len(x_ND))
    rows_N, same_N, gap_N = Finder(x_ND)(x_ND[order_N] * np.float32(1 + 1e-6) + np.float32(0.5))
    np.testing.assert_array_equal(rows_N, order_N)
    assert same_N.all()
    assert gap_N.max() == pytest.approx(0.5, abs=1e-3)
    assert not Finder(x_ND)(x_ND[::-1] + x_ND)[1].any()


def test_dropped_pages_are_gone(tmp_path):
    (tmp_path / "file").write_bytes(bytes(2**20))
    pages.sync(tmp_path)
    assert pages.held(tmp_path) == 1
    pages.drop(tmp_path)
    assert 0 <= pages.held(tmp_path) <= 1  # a request: file systems in memory can't


@pytest.mark.parametrize("name", ["garner", "memmap"])
def test_a_worker_brings_every_row_once(material, tmp_path, name):
    rows = len(material.truth)
    with Session(name, Path(sys.executable), material, tmp_path) as session:
        assert session.ask("harvest")["rows"] == rows
        assert session.ask("epoch", cold=True, epochs=2)["rows"] == 2 * rows
        found = session.ask("check")
    assert found["gap"] < 1e-4
    assert {key: found[key] for key in ("delivered", "unique", "foreign")} == {
        "delivered": rows,
        "unique": rows,
        "foreign": 0,
    }


def test_a_system_that_fails_leaves_its_error_and_the_others_go_on(material, tmp_path):
    python = Path(sys.executable)
    systems = [System("memmap", "memmap", python, "write"), System("nobody", "nobody", python, "harvest")]
    bench = Bench(material, tmp_path, systems)
    bench.harvest()
    bench.read()
    there, missing = bench.lines()
    assert len(there.warm) == 5
    assert not there.error
    assert "nobody" in missing.error
    assert not list(itertools.chain(missing.warm, missing.harvests))
