"""Leases: one holder at a time, told from a dead one without trusting any clock."""

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from storage import RunError
from storage.lease import Holder, Lease, LeaseLost, holders, take
from storage.process import gone, this_process
from storage.url import Folder

BEAT, EXPIRY = 0.05, 0.5


@pytest.fixture(params=["disk", "memory", pytest.param("s3", marks=pytest.mark.s3)])
def lake(request, tmp_path):
    if request.param == "disk":
        return Folder.at(str(tmp_path / "lake"))
    if request.param == "memory":
        return Folder.at(f"memory://lease-{tmp_path.name}")
    return Folder.at(request.getfixturevalue("bucket"))


@pytest.fixture
def immortal(monkeypatch):
    """Nothing tells that a process of this machine is dead: as if every holder were on another."""
    monkeypatch.setattr("storage.lease.gone", lambda process: False)


def quick(lake, **more):
    return take(lake, "night", beat=BEAT, expiry=EXPIRY, **more)


def silent(lease):
    """Ends the heart of a lease as a machine that stops does: without a word in the lake."""
    lease._stop.set()
    lease._thread.join()


def test_a_lease_has_one_holder_whom_others_are_told(lake):
    with quick(lake, uses=("caches/a",)) as lease:
        other = quick(lake)
        assert isinstance(other, Holder)
        assert other == lease.holder
        assert "@" in str(other)
        assert [one.uses for one in holders(lake)] == [("caches/a",)]
        lease.check()
    assert holders(lake) == ()


def test_a_lease_that_was_ended_is_free_at_once_and_its_terms_count_up(lake):
    began = time.monotonic()
    for term in (1, 2, 3, 4, 5):
        with quick(lake) as lease:
            assert lease.term == term
    assert time.monotonic() - began < 5
    assert len(lake.names("leases/night")) <= 6  # terms long past are gone


def test_of_many_that_ask_at_once_one_gets_it(lake):
    with ThreadPoolExecutor(8) as executor:
        got = list(executor.map(lambda _: quick(lake), range(8)))
    held = [one for one in got if isinstance(one, Lease)]
    assert len(held) == 1
    assert {str(one) for one in got if isinstance(one, Holder)} <= {str(held[0].holder)}
    held[0].release()


def test_a_holder_that_gives_no_sign_is_replaced_after_its_expiry_and_not_before(lake, immortal):
    dead = quick(lake)
    silent(dead)
    began = time.monotonic()
    with quick(lake) as lease:
        assert time.monotonic() - began >= EXPIRY
        assert lease.term == dead.term + 1
        assert not lease.lost


def test_a_holder_that_comes_back_finds_that_it_lost(lake, immortal):
    late = quick(lake)
    silent(late)
    with quick(lake):
        with pytest.raises(LeaseLost, match=r"went to .*@.*term 2"):
            late.check()
        late.release()  # and its end does not end the other's
        assert isinstance(quick(lake), Holder)


def test_a_holder_learns_of_its_loss_by_its_own_next_beat(lake, immortal):
    late = quick(lake)
    (lake / "leases/night").create("00000002.json", b"another's claim")
    deadline = time.monotonic() + 5
    while not late.lost and time.monotonic() < deadline:
        time.sleep(BEAT)
    assert late.lost


def test_waiting_ends_when_the_holder_does(lake):
    first, seen = quick(lake), []
    threading.Timer(4 * BEAT, first.release).start()
    with take(lake, "night", beat=BEAT, expiry=EXPIRY, waiting=seen.append) as lease:
        assert lease.term == 2
    assert all(one == first.holder for one in seen)


@pytest.mark.parametrize("hours", [-48, -1 / 6, 1 / 6, 48])
def test_clocks_that_are_off_change_nothing(lake, hours, monkeypatch):
    wrong = time.time() + hours * 3600
    with monkeypatch.context() as patch:
        patch.setattr("time.time", lambda: wrong)
        first = quick(lake)
        assert isinstance(quick(lake), Holder)
    assert isinstance(quick(lake), Holder)
    first.release()
    with quick(lake) as second:
        assert second.term == 2


def test_a_damaged_claim_is_refused_with_what_to_do(lake):
    with quick(lake):
        pass
    (lake / "leases/night").create("00000009.json", b'{"name":"night"')
    with pytest.raises(RunError, match=r"00000009.json is damaged, so nobody knows who holds it.*remove the folder"):
        quick(lake)


def test_a_claimant_that_overslept_does_not_get_an_old_term(lake, monkeypatch):
    """It saw term 1 ended, and slept while others held and removed terms 2 to 6."""
    with quick(lake):
        pass
    real = Folder.create

    def create(folder, name, *parts):
        if name == "00000002.json":
            monkeypatch.setattr(Folder, "create", real)
            for _ in range(5):
                with quick(lake):
                    pass
            assert "00000002.json" not in folder.names()
        return real(folder, name, *parts)

    monkeypatch.setattr(Folder, "create", create)
    with quick(lake) as lease:
        assert lease.term == 7


DIES = """
import sys, time
from storage.lease import take
from storage.url import Folder
lease = take(Folder(sys.argv[1]), "night", beat=5, expiry=600)
print("held", flush=True)
time.sleep(600)
"""


def test_a_process_killed_on_this_machine_is_known_to_be_dead(tmp_path):
    lake = Folder.at(str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", DIES, lake.url], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "held\n"
        child.kill()
        child.wait()
        began = time.monotonic()
        with take(lake, "night") as lease:
            assert lease.term == 2
        assert time.monotonic() - began < 10  # and not the 600 s of its expiry


def test_a_process_elsewhere_or_unknown_is_never_taken_for_dead():
    boot, namespace, pid, started = this_process().split(":")
    assert not gone(this_process())
    assert gone(f"{boot}:{namespace}:{pid}:{int(started) + 1}")  # the number was given to another process since
    assert not gone(f"another-boot:{namespace}:{pid}:{int(started) + 1}")
    assert not gone(f"{boot}:1:{pid}:{int(started) + 1}")
    assert not gone("")
