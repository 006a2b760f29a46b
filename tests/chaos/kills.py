"""Drivers and workers killed at random moments over a lake in a folder; then one undisturbed run."""

import itertools
import random
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.chaos.drivers import PATIENCE, Forked, Started
from tests.chaos.outcome import Outcome
from tests.chaos.world import World, names, stage

Start = Callable[[list[str]], Forked | Started]
Moment = Callable[[frozenset[str], frozenset[str]], bool]
"""Whether to kill, from what was in the lake when the driver began and what is there now."""

_LIFE = 40
"""Kills after which a lake is left to be finished."""
_RARE = ("cache.json", "files.json", "part-", "plan.json", "zarr.json", "sealed/")
_POLL = 0.0005
_numbers = itertools.count()


def killed(name: str, world: World, kills: int, dice: random.Random, start: Start, rivals: int = 1) -> Outcome:
    """So many kills, each followed at once by a new driver, over as many lakes as they last for.

    `rivals` drivers work on the same lake at once.
    """
    outcome = Outcome(name)
    while outcome.kills < kills and not outcome.problems:
        lake = world.lake(f"{name.split(',')[0].replace(' ', '-')}-{next(_numbers)}")
        _one_life(world, lake, dice, start, rivals, min(_LIFE, kills - outcome.kills), outcome)
        if outcome.judge(str(lake), world.wrong(lake)):
            shutil.rmtree(lake)
    return outcome.close()


def _one_life(
    world: World, lake: Path, dice: random.Random, start: Start, rivals: int, kills: int, outcome: Outcome
) -> None:
    """Kill and start again until a driver reaches its end, or so many were killed."""
    expected, arguments = set(world.undisturbed), world.run(lake)
    drivers = [start(arguments) for _ in range(rivals)]
    outcome.runs += rivals
    before = outcome.kills
    while outcome.kills - before < kills:
        victim = drivers.pop(dice.randrange(len(drivers)))
        began = names(lake)
        if not fell(victim, lambda began=began: (began, names(lake)), moment(dice), dice):
            drivers.append(victim)
            break
        outcome.stages[stage(expected, names(lake), began)] += 1
        victim.forget()
        drivers.append(start(arguments))
        outcome.runs += 1
    _let_finish(drivers, lake, outcome)


def _let_finish(drivers: Sequence[Forked | Started], lake: Path, outcome: Outcome) -> None:
    for driver in drivers:
        if code := driver.wait():
            outcome.judge(str(lake), [f"a driver that nobody killed ended with {code}: {driver.said[-600:]}"])
        driver.forget()


def fell(
    driver: Forked | Started,
    look: Callable[[], tuple[frozenset[str], frozenset[str]]],
    when: Moment,
    dice: random.Random,
) -> bool:
    """Whether the driver was killed by us at its moment, alive; False if it came to its end before."""
    until = time.monotonic() + PATIENCE
    while driver.alive:
        if time.monotonic() > until:
            driver.kill()
            raise TimeoutError(f"a driver did not end in {PATIENCE} s: {driver.said[-600:]}")
        if when(*look()):
            time.sleep(dice.uniform(0, 0.004))
            driver.kill()
            return driver.wait() < 0
        time.sleep(_POLL)
    return False


def moment(dice: random.Random, longest: float = 0.6, names: float = 15) -> Moment:
    """After a while, after so many names that came or went, or when one of a rare kind shows, be it half-made."""
    ripe = time.monotonic() + dice.uniform(0.1, longest)
    match dice.randrange(4):
        case 0:
            return lambda began, now: time.monotonic() > ripe
        case 1:
            rare = dice.choice(_RARE)
            return lambda began, now: any(rare in name for name in now - began)
        case _:
            count = 1 + int(dice.expovariate(1 / names))
            return lambda began, now: len(now ^ began) >= count


def started(whole: bool, *settings: str) -> Start:
    """`garner` as a shell starts it, with these settings; killed with all that it started, or alone."""
    more = [word for setting in settings for word in ("--set", setting)]
    return lambda arguments: Started([*arguments, *more], whole)


def killed_workers(world: World, kills: int, dice: random.Random) -> Outcome:
    """Ray's actors killed below one driver, which has to finish by itself; one a lake, for three in a row end a run."""
    outcome, expected = Outcome("Ray workers"), set(world.undisturbed)
    while outcome.kills < kills and not outcome.problems:
        lake = world.lake(f"workers-{next(_numbers)}")
        driver = started(True, "pool.kind=ray", "pool.workers=2")(world.run(lake))
        outcome.runs += 1
        for count in (dice.randrange(1, 40), dice.randrange(60, 110)):
            _kill_worker(driver, lake, count, dice, outcome, expected)
        _let_finish([driver], lake, outcome)
        if outcome.judge(str(lake), world.wrong(lake)):
            shutil.rmtree(lake)
    return outcome.close()


def _kill_worker(
    driver: Started, lake: Path, count: int, dice: random.Random, outcome: Outcome, expected: set[str]
) -> None:
    """Kill one actor once there are so many marks."""
    while driver.alive and sum("/done/" in name for name in names(lake)) < count:
        time.sleep(_POLL)
    if driver.alive and driver.kill_worker(dice):
        outcome.stages[stage(expected, names(lake), frozenset())] += 1
