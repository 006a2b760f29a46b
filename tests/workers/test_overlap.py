"""Work ahead and work behind: all of it, in order, bounded, and over when the block is over."""

import random
import threading
import time

import pytest

from workers.overlap import ahead, behind


class Died(BaseException):
    """Nothing catches it."""


def helpers():
    return [thread for thread in threading.enumerate() if thread.name.startswith("garner-")]


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    yield
    assert helpers() == []


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.002)


def naps(seed, items):
    """The items, some of them after a while."""
    chance = random.Random(seed)
    for item in items:
        time.sleep(chance.choice([0, 0, 0.001, 0.003]))
        yield item


def hand_over(items, take, depth):
    """All items, one by one, to a thread that takes them."""
    with behind(take, depth) as put:
        for item in items:
            put(item)


class TestAhead:
    @pytest.mark.parametrize("depth", [1, 2, 7])
    def test_gives_everything_in_order_whoever_is_slow(self, depth):
        with ahead(naps(depth, range(100)), depth) as given:
            assert list(naps(depth + 1, given)) == list(range(100))

    @pytest.mark.parametrize("depth", [1, 3])
    def test_makes_as_many_as_it_may_before_they_are_asked_for(self, depth):
        made = []
        with ahead((made.append(n) or n for n in range(50)), depth) as given:
            wait_for(lambda: len(made) == depth + 1)
            time.sleep(0.05)
            assert len(made) == depth + 1
            assert next(given) == 0
            wait_for(lambda: len(made) == depth + 2)

    @pytest.mark.parametrize("error", [ValueError("bad item"), Died()])
    def test_an_error_in_making_comes_as_itself_after_what_was_made(self, error):
        def broken():
            yield 1
            yield 2
            raise error

        taken = []
        with pytest.raises(type(error)) as raised, ahead(broken(), 4) as given:
            taken.extend(given)
        assert raised.value is error
        assert taken == [1, 2]

    def test_a_block_left_early_ends_the_making(self):
        made = []
        with ahead((made.append(n) or n for n in range(10**9)), 2) as given:
            assert next(given) == 0
        assert helpers() == []
        assert len(made) < 10

    def test_an_error_in_the_block_ends_the_making_and_comes_as_itself(self):
        def leave():
            with ahead(iter(range(10**9)), 2) as given:
                raise KeyboardInterrupt(next(given))

        with pytest.raises(KeyboardInterrupt):
            leave()


class TestBehind:
    @pytest.mark.parametrize("depth", [1, 2, 7])
    def test_takes_everything_in_order_whoever_is_slow(self, depth):
        taken, chance = [], random.Random(depth)

        def take(item):
            time.sleep(chance.choice([0, 0, 0.001, 0.003]))
            taken.append(item)

        hand_over(naps(depth, range(100)), take, depth)
        assert taken == list(range(100))

    @pytest.mark.parametrize("depth", [1, 3])
    def test_put_waits_and_drops_nothing_while_taking_is_slow(self, depth):
        go, taken, handed = threading.Event(), [], []

        def take(item):
            go.wait(20)
            taken.append(item)

        items = (handed.append(n) or n for n in range(20))
        thread = threading.Thread(target=hand_over, args=(items, take, depth))
        thread.start()
        wait_for(lambda: len(handed) == depth + 2)  # one is under way, and one waits to go in
        time.sleep(0.05)
        assert (len(handed), taken) == (depth + 2, [])
        go.set()
        thread.join()
        assert taken == list(range(20))

    @pytest.mark.parametrize("error", [ValueError("bad item"), Died()])
    @pytest.mark.parametrize("at", [0, 3, 9])
    def test_an_error_in_taking_comes_as_itself_and_nothing_is_taken_after_it(self, error, at):
        taken = []

        def take(item):
            if item == at:
                raise error
            taken.append(item)

        with pytest.raises(type(error)) as raised:
            hand_over(range(10), take, 2)
        assert raised.value is error
        assert taken == list(range(at))

    @pytest.mark.parametrize("error", [RuntimeError("forward"), KeyboardInterrupt()])
    def test_an_error_in_the_block_comes_as_itself_and_what_waits_is_left(self, error):
        begun, go, taken = threading.Event(), threading.Event(), []

        def take(item):
            begun.set()
            go.wait(20)
            taken.append(item)

        def items():
            yield from range(4)
            begun.wait(20)
            threading.Timer(0.05, go.set).start()
            raise error

        with pytest.raises(type(error)) as raised:
            hand_over(items(), take, 5)
        assert raised.value is error
        assert taken == [0]

    def test_what_was_taken_is_not_held_while_the_next_is_waited_for(self):
        class Large:
            alive = 0

            def __init__(self):
                Large.alive += 1

            def __del__(self):
                Large.alive -= 1

        with behind(lambda item: None, 1) as put:
            put(Large())
            wait_for(lambda: Large.alive == 0)
