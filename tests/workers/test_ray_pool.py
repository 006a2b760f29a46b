"""The Ray pool where machines break, come, differ, or are not there."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import msgspec
import pytest

from storage import InputError, RunError
from storage.value import Value
from workers.crew import LIMITS
from workers.groups import Group
from workers.pool import Needs

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[2]


class Task(Value):
    n: int
    seconds: float = 0.0


class Clumsy:
    """Answers a task's number and its own process; at the tasks named, and so often, it hangs or kills itself."""

    def __init__(self, diary, mishaps, place):
        self._diary, self._mishaps = Path(diary), mishaps

    def __call__(self, task):
        what, times = self._mishaps.get(task.n, ("none", 0))
        before = len(list(self._diary.glob(f"{what}-{task.n}-*")))
        if before < times:
            (self._diary / f"{what}-{task.n}-{before}").touch()
            time.sleep(600 if what == "hang" else 0.3)  # so that the answers before it have left this process
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(task.seconds)
        return task.n, os.getpid()


class Threaded:
    """Says how many calls were under way at once."""

    def __init__(self, place):
        self._under_way = 0

    def __call__(self, seconds):
        self._under_way += 1
        time.sleep(seconds)
        most, self._under_way = self._under_way, self._under_way - 1
        return most


def tasks(count, seconds=0.0):
    return [Task(n=n, seconds=seconds) for n in range(count)]


def numbers(receipts):
    return sorted(n for n, _ in receipts)


@pytest.fixture
def make_pool(local_ray):
    """`make_pool(n_workers, timeout=5)`: a pool whose limits are as said."""
    from workers.ray_pool import RayPool

    def make(n_workers=2, **limits):
        return RayPool("local", [Group(workers=n_workers)], msgspec.structs.replace(LIMITS, **limits))

    return make


def test_more_workers_than_places_do_not_hang(make_pool, tmp_path):
    crowded = make_pool((os.cpu_count() or 1) + 3)
    assert numbers(crowded.map(partial(Clumsy, str(tmp_path), {}), tasks(40))) == list(range(40))


def test_workers_are_as_many_as_places_where_none_are_asked_for(make_pool):
    assert make_pool(0).n_workers == os.cpu_count()


def test_a_killed_worker_costs_nothing_but_time(make_pool, tmp_path, caplog):
    pool = make_pool()
    receipts = list(pool.map(partial(Clumsy, str(tmp_path), {5: ("die", 2)}), tasks(12)))
    assert numbers(receipts) == list(range(12))
    assert [loss.reason for loss in pool.losses if loss.task.startswith("Task(n=5,")] == ["died"] * 2
    assert all(loss.worker.rpartition(":")[2].isdigit() for loss in pool.losses)
    assert caplog.text.count("a worker was lost") == len(pool.losses) == 2
    (first, *_) = [record for record in caplog.records if hasattr(record, "fields")]
    assert first.fields["loss"] == "died"


def test_a_task_that_kills_every_worker_ends_the_run_by_name(make_pool, tmp_path):
    with pytest.raises(RunError, match=r"Task\(n=5, .* was lost with each of 3 workers: .*lower batch_tokens"):
        list(make_pool().map(partial(Clumsy, str(tmp_path), {5: ("die", 99)}), tasks(6)))
    assert len(list(tmp_path.glob("die-*"))) == 3


def test_a_task_that_hangs_is_finished_by_another_worker(make_pool, tmp_path):
    pool = make_pool(timeout=3)
    receipts = list(pool.map(partial(Clumsy, str(tmp_path), {1: ("hang", 1)}), tasks(6), Needs(copies=False)))
    assert numbers(receipts) == list(range(6))
    assert [(loss.reason, loss.task[:9]) for loss in pool.losses] == [("timeout", "Task(n=1,")]


def test_a_slow_worker_is_overtaken_and_its_task_counts_once(make_pool, tmp_path):
    pool = make_pool(slow=2)
    started = time.monotonic()
    receipts = list(pool.map(partial(Clumsy, str(tmp_path), {1: ("hang", 1)}), tasks(6)))
    assert numbers(receipts) == list(range(6))
    assert (pool.losses[0].reason, pool.losses[0].task[:9]) == ("slow", "Task(n=1,")
    assert {loss.reason for loss in pool.losses} == {"slow"}
    assert time.monotonic() - started < 60


def test_a_worker_may_have_several_tasks_under_way(make_pool):
    receipts = list(make_pool(1).map(Threaded, [0.3] * 6, Needs(threads=2)))
    assert max(receipts) == 2


def test_a_worker_has_one_task_at_a_time_otherwise(make_pool):
    assert max(make_pool(1).map(Threaded, [0.05] * 6)) == 1


def test_a_machine_without_gpus_is_refused_and_the_fallback_runs_on_cpus(local_ray, caplog):
    from workers.ray_pool import RayPool

    with pytest.raises(InputError, match="asks for 1 GPU per worker, and this machine has 0 GPUs"):
        RayPool("local", [Group(gpus=1)])
    pool = RayPool("local", [Group(gpus=1)], cpu_fallback=True)
    assert pool.n_workers == os.cpu_count()
    assert list(pool.map(lambda place: lambda task: place.device, [1])) == ["cpu"]


def test_the_driver_stays_small_and_idle_over_thousands_of_units(local_ray):
    from benchmarks.pool import overhead

    found = overhead(units=5000, workers=2)
    assert found.cpu / found.units < 1e-3
    assert found.peak - found.before < 15


@pytest.mark.slow
def test_nodes_that_differ_and_come_and_go_in_a_run():
    """In a process of its own: only one cluster can be joined at a time."""
    ran = subprocess.run(
        [sys.executable, Path(__file__).parent / "cluster_run.py"],
        env={name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        | {"PYTHONPATH": str(ROOT), "RAY_memory_monitor_refresh_ms": "0", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    said = msgspec.json.decode(ran.stdout.splitlines()[-1])
    assert said["groups"] == {"here": ["A100 cuda 4096"], "there": ["spot cpu None"]}
    assert said["shares"] == [["0", "1"], 4]
    assert said["spread"] == ["0,1"]
    assert said["grown"] == {"receipts": 60, "nodes": 2, "losses": 0}
    assert said["killed"]["receipts"] == 40
    assert said["killed"]["unique"]
    assert set(said["killed"]["reasons"]) <= {"died", "unreachable", "start"}
    assert said["killed"]["reasons"]


def test_what_ray_says_of_a_loss_is_told_apart_and_cut_to_a_line(local_ray):
    from ray.exceptions import ActorDiedError, ActorUnavailableError, RayActorError, WorkerCrashedError

    from workers.ray_actors import reason, said

    assert reason(RayActorError(preempted=True)) == "preempted"
    assert reason(ActorUnavailableError("socket closed", None)) == "unreachable"
    assert reason(ActorDiedError()) == reason(WorkerCrashedError()) == "died"
    text = said(RayActorError(error_msg=f"{ActorDiedError.BASE_ERROR_MSG}\n\tpid: 7\nThe cause.\nMore" + "." * 1000))
    assert text.startswith("The cause. More")
    assert text.endswith("... ...")
    assert said(ActorDiedError()) == ActorDiedError.BASE_ERROR_MSG
