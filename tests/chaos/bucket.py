"""Drivers killed over a lake in a bucket, each at a request: before the server hears of it, or as it does."""

import itertools
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.chaos.drivers import Forked, Storage
from tests.chaos.outcome import Outcome
from tests.chaos.world import World, kind_of
from tests.s3.proxy import Choose, Fault, Proxy, Refuse, proxied, scripted, stormy
from tests.s3.server import Server

_LIFE = 40
_numbers = itertools.count()


class Trap:
    """Kills a driver at its nth request, and otherwise lets the weather have it."""

    def __init__(self, weather: Choose, dice: random.Random) -> None:
        self._weather, self._dice, self._lock = weather, dice, threading.Lock()
        self._victim: Forked | None = None
        self._left = 0
        self.sprung = ""
        """The request at which the victim was killed."""

    def set(self, victim: Forked, requests: int) -> None:
        """Wait for one driver; every request counts, of whichever driver."""
        with self._lock:
            self._victim, self._left, self.sprung = victim, requests, ""

    def __call__(self, request: str) -> Fault | None:
        """What goes wrong with a request."""
        with self._lock:
            self._left -= 1
            if self._victim and self._left <= 0 and self._victim.alive:
                self._victim.kill()
                self._victim, self.sprung = None, request
                return self._dice.choice((None, Refuse()))  # what a dying process had sent may arrive, or not
        return self._weather(request)


def killed_over_s3(
    name: str, world: World, kills: int, dice: random.Random, server: Server, storm: float = 0.0, rivals: int = 1
) -> Outcome:
    """So many kills; `storm` is the share of all requests that are spoilt besides."""
    outcome = Outcome(name)
    bucket = server.make_bucket(f"chaos-{next(_numbers)}-{dice.randrange(10**9)}")
    while outcome.kills < kills and not outcome.problems:
        lake = f"{bucket}/lake-{next(_numbers)}"
        with weather(server, storm, dice) as (proxy, trap):
            storage = {**server.environment, "AWS_ENDPOINT_URL": proxy.endpoint}
            _one_life(world, lake, storage, trap, dice, rivals, min(_LIFE, kills - outcome.kills), outcome)
        copy = world.base / f"copy-{next(_numbers)}"
        outcome.judge(f"{lake}, copied to {copy}", world.wrong_bucket(lake, copy, server.environment))
    return outcome.close()


@contextmanager
def weather(server: Server, storm: float, dice: random.Random) -> Iterator[tuple[Proxy, Trap]]:
    """A proxy with a trap, and a share of faults of every kind."""
    spoil = stormy(storm, seed=dice.randrange(10**6), hang=0.5) if storm else scripted()
    trap = Trap(spoil, dice)
    with proxied(server.endpoint) as proxy:
        proxy.choose = trap
        yield proxy, trap


def _one_life(
    world: World,
    lake: str,
    storage: Storage,
    trap: Trap,
    dice: random.Random,
    rivals: int,
    kills: int,
    outcome: Outcome,
) -> None:
    drivers = [Forked(world.run(lake), world.fine, storage) for _ in range(rivals)]
    outcome.runs += rivals
    before = outcome.kills
    while outcome.kills - before < kills:
        victim = drivers.pop(dice.randrange(len(drivers)))
        trap.set(victim, rivals * dice.randrange(10, 100))
        code = victim.wait()
        victim_said = victim.said
        victim.forget()
        if not trap.sprung:
            if code:
                outcome.judge(lake, [f"a driver that nobody killed ended with {code}: {victim_said[-600:]}"])
            break
        outcome.stages[kind_of(trap.sprung)] += 1
        drivers.append(Forked(world.run(lake), world.fine, storage))
        outcome.runs += 1
    for driver in drivers:
        if code := driver.wait():
            outcome.judge(lake, [f"a driver that nobody killed ended with {code}: {driver.said[-600:]}"])
        driver.forget()
