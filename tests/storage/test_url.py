"""One object is created once, whole or not at all, wherever it lies; what goes wrong is said in one line."""

import os
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import tests.s3.elsewhere  # noqa: F401  registers its scheme
from storage.errors import RunError
from storage.url import Folder, proves_exclusive


@pytest.fixture(params=["disk", "memory", "elsewhere", pytest.param("s3", marks=pytest.mark.s3)])
def folder(request, tmp_path):
    """A new folder of each kind: everything below is promised of all of them."""
    if request.param == "s3":
        return Folder.at(f"{request.getfixturevalue('bucket')}/lake")
    return Folder.at(str(tmp_path / "lake") if request.param == "disk" else f"{request.param}://{tmp_path.name}/lake")


def test_the_first_of_many_writers_creates_and_the_others_are_told(folder):
    bodies = [bytes([n]) * 100_000 for n in range(16)]
    together = threading.Barrier(16)

    def write(body):
        together.wait()
        return folder.create("a/one", body)

    with ThreadPoolExecutor(16) as pool:
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
    assert folder.read("b/one") == b""
    assert folder.names("b") == ("one", "two")
    assert folder.names() == ("b",)
    assert folder.names("c") == ()
    assert folder.find("b/three") is None
    assert proves_exclusive(folder)


def test_what_another_has_made_or_removed_since_the_last_listing_is_seen(folder):
    folder.create("b/one", b"1")
    assert folder.names("b") == ("one",)
    other = Folder.at(folder.url)
    other.create("b/two", b"2")
    assert folder.exists("b/two")
    assert folder.names("b") == ("one", "two")
    other.remove("b/one")
    assert not folder.exists("b/one")
    assert folder.names("b") == ("two",)


def test_a_removed_folder_is_gone_with_all_below_it_and_removing_it_again_is_nothing(folder):
    for name in ("a/b/one", "a/b/c/two", "a/three", "other"):
        folder.create(name, b"x")
    folder.remove("a")
    assert folder.names() == ("other",)
    assert not folder.exists("a/b/c/two")
    folder.remove("a")


def test_a_page_may_be_written_again(folder):
    folder.replace("report.html", b"one")
    folder.replace("report.html", b"two")
    assert folder.read("report.html") == b"two"


def test_many_ranges_come_in_the_order_in_which_they_were_asked_for(folder):
    bodies = {f"r/{n}": os.urandom(5000 + n) for n in range(5)}
    for name, body in bodies.items():
        folder.create(name, body)
    wanted = [(f"r/{n % 5}", 7 * n, 7 * n + 100 * (n % 4)) for n in range(300)]
    assert folder.ranges(wanted) == [bodies[name][start:stop] for name, start, stop in wanted]
    assert folder.ranges([]) == []


@pytest.mark.parametrize(("start", "stop"), [(0, 101), (99, 102), (100, 101), (500, 600)])
def test_a_range_past_the_end_is_an_error_never_a_short_answer(folder, start, stop):
    folder.create("short", bytes(100))
    there = max(0, 100 - start)
    with pytest.raises(RunError, match=f"short is damaged: bytes {start} to {stop} were wanted, {there} of them"):
        folder.ranges([("short", 0, 100), ("short", start, stop)])
    with pytest.raises(RunError, match="short is damaged"):
        folder.read("short", start, stop)


def test_a_range_of_what_is_not_there_says_so(folder):
    folder.create("here", bytes(100))
    with pytest.raises(FileNotFoundError):
        folder.ranges([("here", 0, 10), ("not-here", 0, 10)])
    with pytest.raises(FileNotFoundError):
        folder.read("not-here")


def test_a_kept_object_is_a_local_file_with_the_same_bytes(folder, tmp_path):
    body = os.urandom(300_000)
    folder.create("k/one", body)
    path = folder.kept("k/one", str(tmp_path / "keep"))
    assert path.read_bytes() == body
    assert folder.kept("k/one", str(tmp_path / "keep")) == path
    if folder.local is None:
        folder.remove("k/one")
        assert folder.kept("k/one", str(tmp_path / "keep")).read_bytes() == body
        with pytest.raises(FileNotFoundError):
            folder.kept("k/two", str(tmp_path / "keep"))


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
