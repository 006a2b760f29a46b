"""What every pool must do, run over each of them."""

import os
import signal
import time
import traceback
from functools import partial
from pathlib import Path

import pytest

from storage import InputError, RunError
from storage.value import Value
from workers.pool import LocalPool


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

    def __init__(self, diary, wrong=None):
        self._diary, self._wrong = diary, wrong or {}

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


def broken_make():
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

    return RayPool("local", n_workers, gpus=0)


@pytest.fixture
def diary(tmp_path):
    folder = tmp_path / "diary"
    folder.mkdir()
    return str(folder)


def test_every_task_runs_once_and_answers_once(pool, diary):
    tasks = [Square(n=n) for n in range(40)]
    receipts = list(pool.map(partial(Worker, diary), tasks))
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
        list(pool.map(partial(Worker, diary, wrong), [Square(n=n) for n in range(8)]))


def test_an_error_ends_the_map_before_all_tasks_are_begun(pool, diary):
    wrong = {0: RunError("planted")}
    with pytest.raises(RunError, match="planted"):
        list(pool.map(partial(Worker, diary, wrong), [Square(n=n, seconds=0.02) for n in range(200)]))
    assert len(begun(diary)) < 100


def test_an_error_nobody_expected_arrives_with_its_traceback(pool):
    with pytest.raises(Exception, match="planted at 1") as caught:
        list(pool.map(lambda: raise_something_unknown, [Square(n=1)]))
    text = "".join(traceback.format_exception(caught.value))
    assert "raise_something_unknown" in text
    assert "UnpicklableError" in text


def test_an_error_in_making_the_worker_arrives_as_itself(pool):
    with pytest.raises(InputError, match="the weights of this model are not whole"):
        list(pool.map(broken_make, [Square(n=n) for n in range(4)]))


def test_closing_the_receipts_early_stops_what_is_under_way(pool, diary):
    receipts = pool.map(partial(Worker, diary), [Square(n=n, seconds=0.05) for n in range(200)])
    next(receipts)
    receipts.close()
    time.sleep(0.5)  # a worker that is being killed may begin one task more
    before = begun(diary)
    time.sleep(0.5)
    assert begun(diary) == before
    assert len(before) < 100


def test_a_pool_serves_one_map_after_another(pool, diary):
    for _ in range(2):
        assert len(list(pool.map(partial(Worker, diary), [Square(n=n) for n in range(3)]))) == 3


class Suicide:
    """Kills its own process at the tasks named, as often as `times` says."""

    def __init__(self, diary, at, times):
        self._diary, self._at, self._times = diary, at, times

    def __call__(self, task):
        deaths = len(list(Path(self._diary).glob(f"died-{task.n}-*")))
        if task.n == self._at and deaths < self._times:
            (Path(self._diary) / f"died-{task.n}-{deaths}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return Receipt(n=task.n, squared=task.n**2, worker=os.getpid())


@pytest.mark.ray
class TestRay:
    def test_more_workers_than_places_do_not_hang(self, request, diary):
        crowded = ray_pool(request, (os.cpu_count() or 1) + 3)
        receipts = list(crowded.map(partial(Worker, diary), [Square(n=n) for n in range(40)]))
        assert sorted(receipt.n for receipt in receipts) == list(range(40))

    def test_workers_are_as_many_as_places_where_none_are_asked_for(self, request):
        assert ray_pool(request, 0).n_workers == os.cpu_count()

    def test_tasks_of_a_dead_worker_run_elsewhere(self, request, diary, caplog):
        receipts = list(ray_pool(request, 2).map(partial(Suicide, diary, 5, 2), [Square(n=n) for n in range(12)]))
        assert sorted(receipt.n for receipt in receipts) == list(range(12))
        assert caplog.text.count("a worker was lost") == 2

    def test_a_task_that_kills_every_worker_ends_the_run(self, request, diary):
        with pytest.raises(RunError, match=r"workers were lost in a row, the last at Square\(n=5.*lower batch_tokens"):
            list(ray_pool(request, 2).map(partial(Suicide, diary, 5, 99), [Square(n=n) for n in range(6)]))
        assert len(list(Path(diary).glob("died-*"))) == 4
