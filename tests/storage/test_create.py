"""An object is created once, whole, by one of all who try."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from storage import RunError
from storage.layout import Layout
from storage.shard import empty_rows, key, write
from storage.url import Folder, proves_exclusive


@pytest.fixture(params=["disk", "memory", pytest.param("s3", marks=pytest.mark.s3)])
def folder(request, tmp_path, lake):
    if request.param == "s3":
        return Folder.at(request.getfixturevalue("bucket"))
    return Folder.at(str(tmp_path)) if request.param == "disk" else lake.folder


def test_of_many_writers_at_once_one_creates_and_the_others_change_nothing(folder):
    start = threading.Barrier(8)

    def create(name, writer):
        start.wait()
        return folder.create(name, bytes([writer]) * 100_000, b"end")

    with ThreadPoolExecutor(8) as writers:
        for n in range(20):
            won = list(writers.map(create, [f"object-{n}"] * 8, range(8)))
            assert sum(won) == 1
            assert folder.read(f"object-{n}") == bytes([won.index(True)]) * 100_000 + b"end"
    assert len(folder.names()) == 20


def test_what_is_left_of_a_dead_writer_is_no_object(folder, tmp_path):
    (tmp_path / ".c.0.0.0123.tmp").write_bytes(b"half")
    folder.create("c.1.0", b"whole")
    assert folder.names() == ("c.1.0",)


def test_stores_that_refuse_a_second_creation_are_known(folder):
    assert proves_exclusive(folder)
    assert folder.names() == ()


def test_a_shard_that_another_wrote_first_is_marked_as_it_is(folder):
    layout = Layout(rows=5, d=3, dtype="float32", rows_per_chunk=2, rows_per_shard=8)
    ours, theirs = empty_rows(layout, 0), empty_rows(layout, 0)
    ours[:5], theirs[:5] = 1.0, 2.0
    first = write(folder, layout, 0, theirs)
    assert write(folder, layout, 0, ours) == first
    assert first[1].mean_D == (2.0, 2.0, 2.0)
    np.testing.assert_array_equal(np.frombuffer(folder.read(key(0)), np.float32, count=15), 2.0)


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data[:-1] + b"?", lambda data: b""])
def test_what_is_no_whole_shard_is_refused_not_adopted(folder, damage):
    layout = Layout(rows=5, d=3, dtype="float32", rows_per_chunk=2, rows_per_shard=8)
    write(folder / "whole", layout, 0, empty_rows(layout, 0))
    folder.create(key(0), damage((folder / "whole").read(key(0))))
    with pytest.raises(RunError, match=r"c\.0\.0 is not a whole shard.*delete it and run again"):
        write(folder, layout, 0, empty_rows(layout, 0))
