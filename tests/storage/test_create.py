"""An object is created once, whole, by one of all who try."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from storage.url import Folder, proves_exclusive


@pytest.fixture(params=["disk", "memory"])
def folder(request, tmp_path, lake):
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
