"""Runs on a cluster of several nodes on this machine, of which some die and some come, and of which the driver dies."""

import json
import os
import signal

import pytest

from tests.cluster.command import running
from tests.cluster.nodes import nodes, raylet, workers
from tests.cluster.world import environment, marks

pytestmark = [pytest.mark.ray, pytest.mark.slow]
_SITES = 2


@pytest.fixture(scope="module")
def cluster(disturbed_world):
    """One node and the head."""
    with nodes(1) as made:
        yield made


@pytest.fixture
def ours(cluster):
    """The environment of a driver: what the cluster's processes have of Ray."""
    return environment(**{name: value for name, value in os.environ.items() if name.startswith("RAY_")})


def pids(lake):
    """Of the workers that have marked units."""
    return {int(mark["worker"].rpartition(":")[2]) for mark in marks(lake).values()}


def test_a_run_outlives_nodes_and_uses_new_ones(disturbed_world, cluster, ours, tmp_path):
    lake, victim = tmp_path / "lake", cluster.add()
    with running(disturbed_world.run(lake, cluster.address), ours, tmp_path / "garner.log") as run:
        run.until(lambda: pids(lake) & workers(victim), "a unit was marked on the node to be killed")
        lost = pids(lake) & workers(victim)
        os.kill(raylet(victim), signal.SIGKILL)
        new = cluster.add()
        run.until(lambda: pids(lake) & workers(new), "a unit was marked on the new node")
        assert run.wait() == 0, run.said
    assert {int(loss["worker"].rpartition(":")[2]) for loss in run.losses} == lost
    assert {loss["reason"] for loss in run.losses} <= {"died", "unreachable"}, run.losses
    assert disturbed_world.wrong(lake) == []


def test_a_killed_drivers_run_is_finished_by_the_same_command(disturbed_world, cluster, ours, tmp_path):
    lake = tmp_path / "lake"
    command = disturbed_world.run(lake, cluster.address)
    with running(command, ours, tmp_path / "first.log") as run:
        run.until(lambda: len(marks(lake)) >= 8 * _SITES, "some units were marked")
        before = marks(lake)
        run.kill()
    with running(command, ours, tmp_path / "second.log") as run:
        assert run.wait() == 0, run.said
    after = marks(lake)
    assert {path: after[path] for path in before} == before
    assert 0 < units(lake) <= (len(after) - len(before)) / _SITES
    assert "waiting for it" not in run.said  # a dead process holds no lease
    assert not run.losses
    assert disturbed_world.wrong(lake) == []


def units(lake):
    """How many units the one run harvested that came to its end."""
    (record,) = lake.glob("runs/*/record.json")
    return json.loads(record.read_bytes())["steps"][0]["units"]
