"""How many workers there are, when lost ones are replaced, and who is sent away. No Ray."""

import msgspec

from workers.crew import LIMITS, Crew


class World:
    """A crew and its clock."""

    def __init__(self, **limits):
        self.now = 0.0
        self.crew = Crew(msgspec.structs.replace(LIMITS, **limits), lambda: self.now)

    def come(self, *wanted, most=100):
        self.crew.resize(wanted, most)
        return self.crew.due()

    def wait(self, *wanted):
        """The next worker, and how long it took to come."""
        began = self.now
        while not (come := self.come(*wanted)):
            self.now += 0.25
        return come[0], self.now - began


def test_workers_that_keep_dying_are_replaced_after_longer_and_longer_rests_up_to_a_cap():
    world, rests = World(rest=1, longest_rest=6), []
    (worker,) = world.come(1)
    for _ in range(6):
        world.crew.lose(worker, counts=True)
        worker, rest = world.wait(1)
        rests.append(rest)
    assert rests == [1, 2, 4, 6, 6, 6]


def test_a_task_done_makes_the_rests_short_again():
    world = World(rest=1)
    (worker,) = world.come(1)
    for _ in range(5):
        world.crew.lose(worker, counts=True)
        worker, rest = world.wait(1)
        assert rest == 1
        world.crew.succeed(worker)


def test_a_loss_that_does_not_count_is_replaced_at_once():
    world = World()
    (worker,) = world.come(1)
    assert world.crew.lose(worker, counts=False) == 0
    assert world.wait(1)[1] == 0


def test_a_broken_node_does_not_hurry_because_others_do_well():
    world = World(rest=1)
    good, bad = world.come(2)
    for expected in (1, 2, 4, 8):
        assert world.crew.lose(bad, counts=True) == 1
        world.crew.succeed(good)
        bad, rest = world.wait(2)
        assert rest == expected


def test_more_are_started_when_more_are_wanted():
    world = World()
    assert len(world.come(2)) == 2
    assert len(world.come(5)) == 3
    assert world.come(5) == []


def test_a_place_on_a_node_that_left_is_not_filled_again():
    world = World()
    for worker in world.come(4)[:2]:
        world.crew.lose(worker, counts=True)
    world.crew.resize([2], 100)
    world.now = 100
    assert world.crew.due() == []
    assert len(world.crew.workers) == 2


def test_earlier_groups_come_first():
    assert [worker.group for worker in World().come(2, 5, most=3)] == [0, 0, 1]


def test_there_are_never_more_workers_than_work():
    world = World()
    first, *_ = world.come(8, most=3)
    assert len(world.crew.workers) == 3
    world.crew.lose(first, counts=True)
    assert world.crew.trim(2) == []
    world.now = 100
    assert world.come(8, most=2) == []


def test_those_who_are_not_there_yet_are_sent_away_first_and_those_at_work_never():
    world = World()
    busy, idle, on_its_way = world.come(3)
    for worker in (busy, idle):
        world.crew.enter(worker, "open")
    busy.calls.append("a task")
    assert world.crew.trim(2) == [on_its_way]
    assert world.crew.trim(0) == [idle]
    assert list(world.crew.workers) == [busy]
