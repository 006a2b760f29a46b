"""A few of `make chaos`: whatever is killed, full, read-only or without power, the cache is the same in the end."""

import random

import pytest

from tests.chaos import bucket, disk, kills, mending, powercut, world
from tests.chaos.drivers import Forked
from tests.chaos.outcome import table
from tests.chaos.trace import Call, Disk

SEED = 20


@pytest.fixture(scope="module")
def fine(tmp_path_factory):
    """Many small shards."""
    return world.make(tmp_path_factory.mktemp("fine"), files=2)


@pytest.fixture
def dice():
    return random.Random(SEED)


def survived(outcome, kills=0):
    """So many kills were honest, and no lake differs."""
    assert not outcome.problems, table([outcome])
    assert outcome.kills >= kills
    assert outcome.runs > outcome.kills or not kills


def test_drivers_killed_at_random_moments(fine, dice):
    survived(kills.killed("forked driver", fine, 8, dice, lambda arguments: Forked(arguments, True)), 8)


def test_rivals_on_one_cache_killed_at_random_moments(fine, dice):
    survived(kills.killed("two rivals", fine, 5, dice, lambda arguments: Forked(arguments, True), rivals=2), 5)


def test_repairs_killed_at_random_moments(fine, dice):
    survived(mending.killed_repairs(fine, 3, dice), 3)


@pytest.mark.s3
def test_drivers_killed_at_random_requests_in_a_storm(fine, dice, s3_server):
    survived(bucket.killed_over_s3("storm", fine, 4, dice, s3_server, storm=0.05), 4)


@pytest.mark.skipif(not disk.can_mount(), reason="only root may mount a small file system")
def test_a_full_disk_ends_a_run_that_goes_on_once_there_is_space(fine, dice):
    survived(disk.full_disks(fine, 2, dice))


@pytest.mark.skipif(disk.is_root() and not disk.can_mount(), reason="modes do not hold root, and it may not mount here")
def test_a_lake_that_may_only_be_read_can_be_read(fine):
    survived(disk.read_only(fine))


@pytest.mark.skipif(bool(powercut.missing()), reason=powercut.missing() or "strace")
def test_no_record_outlives_a_power_cut_that_takes_its_data(fine, dice):
    survived(powercut.power_cuts(fine, 4, 3, dice), 4)


def replayed(*history):
    disk = Disk("/lake")
    for at, (kind, path, to) in enumerate(history):
        disk.apply(Call(kind, path, to, began=at, ended=at))
    return disk.lost("/lake/data/a", "/lake/marks/a")


MADE = (
    ("mkdir", "/lake/data", ""),
    ("sync", "/lake", ""),
    ("open", "/lake/data/.a", ""),
    ("write", "/lake/data/.a", ""),
    ("sync", "/lake/data/.a", ""),
    ("link", "/lake/data/.a", "/lake/data/a"),
    ("unlink", "/lake/data/.a", ""),
    ("sync", "/lake/data", ""),
)


@pytest.mark.parametrize(
    ("without", "says"),
    [
        (1, "/lake/data is a new name"),
        (4, "the bytes of"),
        (7, "/lake/data/a is a new name"),
        (None, ""),
    ],
)
def test_a_missing_sync_is_found(without, says):
    history = [call for at, call in enumerate(MADE) if at != without]
    assert says in replayed(*history)
    assert bool(says) == bool(replayed(*history))
