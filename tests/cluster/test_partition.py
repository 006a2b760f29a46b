"""A run on three hosts of which one is killed, one is cut off for half a minute, and to which one is added."""

import json
import re
import time
from collections import Counter

import pytest

from tests.cluster.command import running, wait_for
from tests.cluster.ray_hosts import bytes_read, frozen, ray_hosts, workers
from tests.cluster.world import hosts_of, marks

pytestmark = [pytest.mark.ray, pytest.mark.slow]
_CUT = 30
_SITES = 2


def shards_of(lake, unit):
    """Bytes of the shards of one unit, by what its marks say; 0 until all of its sites are marked."""
    found = [mark for mark in marks(lake).values() if mark["unit"] == unit]
    return sum(shard["size"] for mark in found for shard in mark["shards"]) if len(found) == _SITES else 0


def marked_by(lake, host):
    """Units of which a host's workers have marked every site."""
    units = Counter(mark["unit"] for mark in marks(lake).values() if mark["worker"].startswith(f"{host}:"))
    return {unit for unit, count in units.items() if count == _SITES}


@pytest.mark.usefixtures("needs_hosts")
def test_a_run_ends_by_itself_though_hosts_die_come_and_are_cut_off(disturbed_world, tmp_path):
    lake = tmp_path / "lake"
    with ray_hosts() as cluster:
        a, b, c = cluster.head("a"), cluster.join("b"), cluster.join("c")
        command = a.command(*disturbed_world.run(lake, cluster.address))
        with running(command, cluster.environment, tmp_path / "garner.log") as run:
            run.until(lambda: workers(a, lake), "the first host had marked a unit")
            with frozen(workers(a, lake)):  # or it might do nearly everything before the others have begun
                run.until(lambda: hosts_of(lake) == {"a", "b", "c"}, "every host had marked a unit")
                (zombie,), done = workers(c, lake), marked_by(lake, "c")
                run.until(lambda: marked_by(lake, "c") > done, "the host to be cut off had begun another unit")
            with frozen([zombie]):
                with frozen(workers(a, lake)):  # or it might end the run meanwhile
                    c.cut()
                    began = time.monotonic()
                    b.kill()
                    d = cluster.join("d")
                    run.until(lambda: run.lost("b") and run.lost("c"), "the losses of two hosts were told")
                told = " ".join(loss["task"] for loss in run.lost("c"))
                # a unit that it marked in its last moment may be told as lost, too
                late = {int(unit) for unit in re.findall(r"unit=(\d+)", told)} - marked_by(lake, "c")
                assert late, run.losses
                run.until(lambda: all(shards_of(lake, unit) for unit in late), "others had done the zombie's units")
                before, read = marks(lake), bytes_read(zombie)
            # it finds each shard that it wants to write there already, and reads it; the others wait for it
            with frozen(workers(a, lake)), frozen(workers(d, lake)):
                wait_for(
                    lambda: bytes_read(zombie) - read >= min(shards_of(lake, unit) for unit in late), "late work", 60
                )
            with frozen(workers(a, lake)):
                run.until(lambda: "d" in hosts_of(lake), "the new host had marked a unit")
                with frozen(workers(d, lake)):
                    time.sleep(max(began + _CUT - time.monotonic(), 0))
                    assert run.alive, run.said
                    c.heal()
            wait_for(lambda: not c.pids(), "the end of the zombie's host", 60)
            assert run.wait() == 0, run.said
    after = marks(lake)
    assert {path: after[path] for path in before} == before
    assert not late & marked_by(lake, "c")
    assert disturbed_world.wrong(lake) == []
    (record,) = lake.glob("runs/*/record.json")
    counted = json.loads(record.read_bytes())["steps"][0]["losses"]
    assert counted["died"] >= 2
    assert counted.keys() == {loss["reason"] for loss in run.losses} <= {"died", "unreachable"}
