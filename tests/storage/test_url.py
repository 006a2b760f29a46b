"""One object is created once, whole or not at all, wherever it lies; what goes wrong is said in one line."""

import os
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from storage.errors import RunError
from storage.url import Folder, proves_exclusive


@pytest.fixture(params=["disk", "memory"])
def folder(request, tmp_path):
    return Folder.at(str(tmp_path / "lake") if request.param == "disk" else f"memory://url-{tmp_path.name}")


def test_the_first_of_many_writers_creates_and_the_others_are_told(folder):
    bodies = [bytes([n]) * 100_000 for n in range(8)]
    together = threading.Barrier(8)

    def write(body):
        together.wait()
        return folder.create("a/one", body)

    with ThreadPoolExecutor(8) as pool:
        for _ in range(10):
            won = list(pool.map(write, bodies))
            assert sum(won) == 1
            assert folder.read("a/one") == bodies[won.index(True)]
            folder.remove("a/one")


def test_parts_are_joined_ranges_are_read_and_names_are_listed(folder):
    assert folder.create("b/two", b"abc", memoryview(b"defg"))
    assert folder.read("b/two") == b"abcdefg"
    assert folder.read("b/two", 2, 5) == b"cde"
    assert folder.create("b/one", b"")
    assert folder.names("b") == ("one", "two")
    assert folder.names("c") == ()
    assert folder.find("b/three") is None
    assert proves_exclusive(folder)


def test_left_overs_of_killed_writers_are_passed_over(tmp_path):
    folder = Folder.at(str(tmp_path))
    (tmp_path / ".one.0123.tmp").write_bytes(b"half")
    assert folder.names() == ()
    assert folder.create("one", b"whole")
    assert folder.names() == ("one",)


def test_a_full_disk_is_said_in_one_line_and_leaves_nothing_half_written(tmp_path):
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path]).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        folder = Folder.at(str(tmp_path))
        with pytest.raises(RunError, match="No space left on device; free some space and run again"):
            folder.create("big", bytes(2**21))
        assert list(tmp_path.iterdir()) == []
        assert folder.create("small", b"fits")
    finally:
        subprocess.run(["umount", tmp_path], check=True)
