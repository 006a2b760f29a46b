"""What every pool must do, run over each of them."""

import os
import time
import traceback
from functools import partial
from pathlib import Path

import msgspec
import pytest

from pipeline.pools import make_pool
from pipeline.recipe import PoolTable
from storage import InputError, RunError
from storage.value import Value
from workers.groups import Group
from workers.pool import LocalPool, Needs, Place, has_cuda


class Square(Value):
    """A task."""

    n: int
    seconds: float = 0.0


class Receipt(Value):
    n: int
    squared: int
    worker: int


class Worker:
    """Squares numbers; notes each task it begins as a file in `diary`."""

    def __init__(self, diary, wrong=None, place=None):
        self._diary, self._wrong, self._place = diary, wrong or {}, place

    def __call__(self, task):
        (Path(self._diary) / f"{task.n}-{os.getpid()}-{time.monotonic_ns()}").touch()
        time.sleep(task.seconds)
        if task.n in self._wrong:
            raise self._wrong[task.n]
        return Receipt(n=task.n, squared=task.n**2, worker=os.getpid())


class UnpicklableError(Exception):
    """An exception that no other process can rebuild."""

    def __init__(self, what, *, why):
        super().__init__(what)
        self.why = why
        self.handle = (part for part in why)


def make(diary, wrong=None):
    """What makes a worker, given its place."""
    return partial(Worker, diary, wrong)


def broken_make(place):
    raise InputError("the weights of this model are not whole")


def raise_something_unknown(task):
    raise UnpicklableError(f"planted at {task.n}", why="to see it")


def begun(diary):
    """Numbers of the tasks that were begun, in order of their beginning."""
    names = sorted((path.name.split("-") for path in Path(diary).iterdir()), key=lambda parts: int(parts[2]))
    return [int(number) for number, _, _ in names]


@pytest.fixture(params=["local", pytest.param("ray", marks=pytest.mark.ray)])
def pool(request):
    """Each pool."""
    return LocalPool() if request.param == "local" else ray_pool(request, 2)


def ray_pool(request, n_workers):
    request.getfixturevalue("local_ray")
    from workers.ray_pool import RayPool

    return RayPool("local", [Group(workers=n_workers)])


@pytest.fixture
def diary(tmp_path):
    folder = tmp_path / "diary"
    folder.mkdir()
    return str(folder)


def test_every_task_runs_once_and_answers_once(pool, diary):
    tasks = [Square(n=n) for n in range(40)]
    receipts = list(pool.map(make(diary), tasks))
    assert sorted((receipt.n, receipt.squared) for receipt in receipts) == [(n, n * n) for n in range(40)]
    assert sorted(begun(diary)) == list(range(40))


def test_no_tasks_make_no_worker(pool):
    assert list(pool.map(broken_make, [])) == []


def test_there_is_at_least_one_worker(pool):
    assert pool.n_workers >= 1


@pytest.mark.parametrize("kind", [InputError, RunError])
def test_an_error_of_ours_arrives_as_itself(pool, diary, kind):
    wrong = {3: kind("document 'a:3' is not UTF-8: mend it")}
    with pytest.raises(kind, match="document 'a:3' is not UTF-8: mend it"):
        list(pool.map(make(diary, wrong), [Square(n=n) for n in range(8)]))


def test_an_error_ends_the_map_before_all_tasks_are_begun(pool, diary):
    wrong = {0: RunError("planted")}
    with pytest.raises(RunError, match="planted"):
        list(pool.map(make(diary, wrong), [Square(n=n, seconds=0.02) for n in range(200)]))
    assert len(begun(diary)) < 100


def test_an_error_nobody_expected_arrives_with_its_traceback(pool):
    with pytest.raises(Exception, match="planted at 1") as caught:
        list(pool.map(lambda place: raise_something_unknown, [Square(n=1)]))
    text = "".join(traceback.format_exception(caught.value))
    assert "raise_something_unknown" in text
    assert "UnpicklableError" in text


def test_an_error_in_making_the_worker_arrives_as_itself(pool):
    with pytest.raises(InputError, match="the weights of this model are not whole"):
        list(pool.map(broken_make, [Square(n=n) for n in range(4)]))


def test_closing_the_receipts_early_stops_what_is_under_way(pool, diary):
    receipts = pool.map(make(diary), [Square(n=n, seconds=0.05) for n in range(200)])
    next(receipts)
    receipts.close()
    time.sleep(0.5)  # a worker that is being killed may begin one task more
    before = begun(diary)
    time.sleep(0.5)
    assert begun(diary) == before
    assert len(before) < 100


def test_a_pool_serves_one_map_after_another(pool, diary):
    for _ in range(2):
        assert len(list(pool.map(make(diary), [Square(n=n) for n in range(3)]))) == 3


@pytest.mark.parametrize("device", [True, False])
def test_a_worker_is_told_where_it_stands(pool, device):
    (place,) = pool.map(lambda place: lambda task: place, [1], Needs(device=device))
    assert place == Place(device="cpu")


def test_tasks_need_not_be_hashable(pool):
    assert list(pool.map(lambda place: dict, [{"a": [1]}])) == [{"a": [1]}]


def test_nothing_is_lost_where_nothing_breaks(pool, diary):
    list(pool.map(make(diary), [Square(n=n) for n in range(6)]))
    assert not pool.losses


@pytest.mark.ray
def test_a_recipe_says_which_workers_there_are(local_ray):
    groups = [{"workers": 1, "batch_tokens": 512}, {"workers": 1, "batch_tokens": 64}]
    pool = make_pool(msgspec.convert({"groups": groups, "timeout": 60}, PoolTable), "/tmp/lake")
    places = pool.map(lambda place: lambda task: (time.sleep(task), place.batch_tokens)[1], [1.0] * 8)
    assert set(places) == {512, 64}


@pytest.mark.skipif(has_cuda(), reason="this machine has a GPU")
def test_a_local_pool_without_a_gpu_is_refused_or_falls_back(caplog):
    table = PoolTable(kind="local", gpus=1)
    with pytest.raises(InputError, match="torch finds none in this process: set gpus = 0 or cpu_fallback = true"):
        make_pool(table, "memory://lake")
    pool = make_pool(msgspec.structs.replace(table, cpu_fallback=True), "memory://lake")
    assert list(pool.map(lambda place: lambda task: place.device, [1])) == ["cpu"]
    assert "running on CPU, far slower" in caplog.text
