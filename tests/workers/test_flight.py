"""The bookkeeping of a map, told event by event what happens, on a clock of its own. No Ray."""

import msgspec
import pytest

from storage import RunError
from workers.crew import LIMITS
from workers.flight import Flight
from workers.pool import Needs

NO_COPIES = Needs(copies=False)


class World:
    """A flight, its clock, and workers that do what a test says."""

    def __init__(self, n_tasks, n_workers, needs=NO_COPIES, **limits):
        self.now, self.losses, self.n_workers = 0.0, [], n_workers
        tasks = [f"task-{n}" for n in range(n_tasks)]
        self.flight = Flight(
            tasks, needs, msgspec.structs.replace(LIMITS, **limits), self.losses.extend, lambda: self.now
        )

    def come(self):
        """Workers start that are due, and are ready at once."""
        started = self.flight.resize([self.n_workers])
        for number, worker in enumerate(started):
            self.flight.placed(worker, f"node:{number}")
            self.flight.ready(worker)
        return started

    def send(self):
        return list(self.flight.sends())

    def go_on(self, happen):
        """The same again and again, until the flight gives up."""
        for _ in range(9):
            self.come()
            happen(self.send())

    def late(self, calls):
        """All of them take longer than the time-out of a hundred seconds."""
        self.now += 101
        self.flight.overdue()

    def reasons(self):
        return [loss.reason for loss in self.losses]


def tasks_of(calls):
    return [call.task for call in calls]


def test_every_worker_gets_a_task_before_any_gets_a_second():
    world = World(10, 3)
    workers = world.come()
    calls = world.send()
    assert tasks_of(calls) == [0, 1, 2, 3, 4, 5]
    assert [call.worker for call in calls[:3]] == workers
    assert {call.worker for call in calls[3:]} == set(workers)
    assert world.send() == []


def test_no_task_waits_behind_another_when_there_are_few():
    world = World(4, 3)
    world.come()
    calls = world.send()
    assert tasks_of(calls) == [0, 1, 2]
    assert world.flight.ended(calls[1])
    assert [(call.task, call.worker) for call in world.send()] == [(3, calls[1].worker)]


def test_a_worker_with_threads_has_a_task_for_each_and_one_in_wait():
    world = World(20, 2, Needs(threads=2))
    world.come()
    assert len(world.send()) == 6


def test_no_more_workers_are_started_than_there_are_tasks():
    assert len(World(3, 8).come()) == 3


def test_tasks_of_a_lost_worker_run_elsewhere_and_first():
    world = World(20, 2)
    first, second = world.come()
    lost = [call.task for call in world.send() if call.worker is first]
    world.flight.lost(first, "died", "exit code 9")
    assert [(loss.reason, loss.task, loss.worker, loss.detail) for loss in world.losses] == [
        ("died", "task-0", "node:0", "exit code 9")
    ]
    done = next(call for call in second.calls)
    assert world.flight.ended(done)
    assert tasks_of(world.send())[0] in lost


def test_a_task_that_costs_three_workers_ends_the_run_by_name():
    world = World(8, 4, rest=0)

    def die_of_the_first(calls):
        for call in calls:
            world.flight.ended(call) if call.task else world.flight.lost(call.worker, "died", "exit code 9")

    with pytest.raises(RunError, match="task-0 was lost with each of 3 workers: most likely memory ran out"):
        world.go_on(die_of_the_first)
    assert world.reasons() == ["died"] * 3


def test_workers_lost_together_are_one_loss_in_a_row():
    world = World(100, 16, row=2)
    for worker in world.come():
        world.flight.lost(worker, "died", "the node is gone")
    world.now = 1.0
    again = world.come()
    assert len(again) == 16
    with pytest.raises(RunError, match="2 workers were lost in a row with nothing done in between"):
        world.flight.lost(again[0], "died", "the node is gone")


def test_a_task_done_in_between_breaks_the_row():
    world = World(100, 1, row=2)
    for _ in range(9):
        (worker,) = world.come()
        call = world.send()[0]
        assert world.flight.ended(call)
        world.flight.lost(worker, "died", "")
        world.now += 1000


def test_a_loss_on_the_way_to_a_machine_is_a_start_and_ends_the_run_if_it_goes_on():
    world = World(10, 1, rest=0)

    def start():
        for worker in world.flight.resize([1]):
            world.flight.lost(worker, "died", "no such image")

    for _ in range(3):
        start()
    with pytest.raises(RunError, match=r"4 workers were lost in a row .* before it had a task"):
        start()
    assert world.reasons() == ["start"] * 4


def test_preempted_workers_count_against_nothing_and_are_replaced_at_once():
    world = World(4, 1)
    for _ in range(20):
        (worker,) = world.come()
        world.send()
        world.flight.lost(worker, "preempted", "the node was preempted")
    assert world.reasons() == ["preempted"] * 20
    (worker,) = world.flight.resize([1])
    world.flight.lost(worker, "preempted", "before it had a place")
    assert world.reasons()[-1] == "preempted"


def test_a_task_that_takes_too_long_is_taken_from_its_worker():
    world = World(20, 2, timeout=100)
    first, second = world.come()
    calls = world.send()
    world.now = 99
    assert world.flight.ended(next(call for call in calls if call.worker is second))
    world.now = 101
    assert world.flight.overdue() == [first]
    assert world.reasons() == ["timeout"]
    assert world.losses[0].task == "task-0"


def test_a_task_that_waits_behind_another_is_not_late_by_it():
    world = World(20, 1, timeout=100)
    world.come()
    running, behind = world.send()
    world.now = 90
    assert world.flight.ended(running)
    world.now = 150
    assert world.flight.overdue() == []
    world.now = 191
    assert world.flight.overdue() == [behind.worker]


def test_a_task_that_is_too_long_on_three_workers_ends_the_run_by_name():
    world = World(2, 1, timeout=100, rest=0)
    with pytest.raises(RunError, match=r"task-0 took longer than pool.timeout = 100 s on 3 workers: raise it"):
        world.go_on(world.late)


def test_a_task_beside_a_late_one_runs_again_but_is_not_blamed():
    world = World(2, 1, Needs(threads=2, copies=False), timeout=100, rest=0)

    def late_with_the_first_alone(calls):
        world.now += 60
        for call in calls:
            call.began = world.now if call.task else call.began
        world.now += 60
        world.flight.overdue()

    with pytest.raises(RunError, match="task-0 took longer"):
        world.go_on(late_with_the_first_alone)
    assert [loss.task for loss in world.losses] == ["task-0", "task-1"] * 3


def test_tasks_without_a_time_limit_are_never_late():
    world = World(4, 1, Needs(timed=False))
    world.come()
    world.send()
    world.now = 1e9
    assert world.flight.overdue() == []


def test_building_that_takes_too_long_costs_the_worker():
    world = World(4, 1, timeout=100)
    (worker,) = world.flight.resize([1])
    world.now = 1000
    assert world.flight.overdue() == []
    world.flight.placed(worker, "node:1")
    world.now = 1101
    assert world.flight.overdue() == [worker]


class TestCopies:
    def slow(self, **limits):
        """Two workers, of which one ended its tasks in a second each, and the other sits on one."""
        world = World(4, 2, Needs(), slow=10, **limits)
        _, second = world.come()
        stuck = world.send()[0]
        for _ in range(3):
            world.now += 1
            assert world.flight.ended(second.calls[0])
            world.send()
        return world, stuck, second

    def test_a_slow_task_is_sent_again_to_a_worker_that_has_nothing_to_do(self):
        world, stuck, second = self.slow()
        world.now = 10
        assert list(world.flight.copies()) == []
        world.now = 10.5
        (copy,) = world.flight.copies()
        assert (copy.task, copy.worker) == (stuck.task, second)
        assert [(loss.reason, loss.task) for loss in world.losses] == [("slow", "task-0")]
        assert list(world.flight.copies()) == []

    def test_only_the_first_answer_counts(self):
        for first in range(2):
            world, stuck, _ = self.slow()
            world.now = 11
            (copy,) = world.flight.copies()
            answers = [stuck, copy] if first else [copy, stuck]
            assert [world.flight.ended(call) for call in answers] == [True, False]
            assert world.flight.left == 0

    def test_a_copy_whose_worker_is_lost_leaves_the_first_attempt_alone(self):
        world, stuck, second = self.slow()
        world.now = 11
        list(world.flight.copies())
        world.flight.lost(second, "died", "")
        assert world.send() == []
        assert world.flight.ended(stuck)

    def test_slow_is_four_times_the_95th_percentile_where_tasks_are_long(self):
        world, stuck, second = self.slow(slow_factor=20)
        world.now = 19.9
        assert list(world.flight.copies()) == []
        world.now = 20.1
        assert [call.task for call in world.flight.copies()] == [stuck.task]
        assert second.calls

    def test_nothing_is_copied_that_must_not_be(self):
        world = World(4, 2, NO_COPIES, slow=0)
        _, second = world.come()
        world.send()
        for _ in range(3):
            assert world.flight.ended(second.calls[0])
            world.send()
        world.now = 1e6
        assert list(world.flight.copies()) == []


class TestUnreachable:
    def test_it_gets_no_task_until_it_answers(self):
        world = World(20, 1)
        (worker,) = world.come()
        first, second = world.send()
        world.flight.astray(first, "no route")
        world.flight.astray(second, "no route")
        assert [loss.task for loss in world.losses] == ["task-0"]
        assert world.send() == []
        world.now = 5
        world.flight.ready(worker)
        assert tasks_of(world.send()) == [1, 0]
        assert world.flight.overdue() == []

    def test_a_task_that_it_answers_all_the_same_is_done(self):
        world = World(20, 1)
        (worker,) = world.come()
        first, second = world.send()
        world.flight.astray(first, "no route")
        assert world.flight.ended(second)
        assert world.send() == []
        world.flight.ready(worker)
        assert tasks_of(world.send()) == [0, 2]

    def test_it_is_given_up_after_the_grace(self):
        world = World(20, 1)
        (worker,) = world.come()
        world.flight.astray(world.send()[0], "no route")
        world.now = LIMITS.grace + 1
        assert world.flight.overdue() == [worker]
        assert set(world.reasons()) == {"unreachable"}


def test_a_worker_without_work_is_sent_away():
    world = World(2, 2)
    world.come()
    first, _ = world.send()
    assert world.flight.ended(first)
    assert world.flight.spare() == [first.worker]
    assert world.send() == []


def test_as_many_as_there_are_tasks_stay_where_slow_ones_may_be_copied():
    world = World(4, 4, Needs())
    world.come()
    for call in world.send()[:3]:
        assert world.flight.ended(call)
    assert len(world.flight.spare()) == 2
    assert world.flight.left == 1
