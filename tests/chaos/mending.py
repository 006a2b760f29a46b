"""`garner repair` killed at random moments after random damage; then repaired again, and run."""

import itertools
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from tests.chaos.drivers import Forked
from tests.chaos.kills import fell, moment
from tests.chaos.outcome import Outcome
from tests.chaos.world import World, names

Damage = Callable[[Path, random.Random], object]
_LIFE = 8
_numbers = itertools.count()


def killed_repairs(world: World, kills: int, dice: random.Random) -> Outcome:
    """So many kills of repairs; each lake is damaged once, and what kills leave is the next repair's to mend."""
    outcome, unsealed = Outcome("repair"), 0
    while outcome.kills < kills and not outcome.problems:
        lake = world.base / f"repair-{next(_numbers)}"
        shutil.copytree(world.base / "undisturbed", lake)
        for _ in range(dice.randrange(1, 5)):
            damage(lake, dice)
        _one_life(lake, dice, min(_LIFE, kills - outcome.kills), outcome)
        unsealed += any(name not in names(lake) for name in world.undisturbed)
        if outcome.judge(str(lake), world.wrong(lake)):
            shutil.rmtree(lake)
    outcome.note = f"({unsealed} lakes were finished by the run after the last repair)" if unsealed else ""
    return outcome.close()


def _one_life(lake: Path, dice: random.Random, kills: int, outcome: Outcome) -> None:
    before = outcome.kills
    while True:
        driver = Forked(["repair", str(lake)], True)
        outcome.runs += 1
        began = names(lake)
        at, when = time.time_ns(), moment(dice, 1.2, names=3)
        if outcome.kills - before < kills and fell(driver, lambda began=began: (began, names(lake)), when, dice):
            outcome.stages[stage(lake, began, at)] += 1
            driver.forget()
            continue
        if code := driver.wait():
            outcome.judge(str(lake), [f"a repair that nobody killed ended with {code}: {driver.said[-600:]}"])
        driver.forget()
        return


def stage(lake: Path, began: frozenset[str], at: int) -> str:
    """What a repair that began at that time had done of its two halves."""
    if any(path.stat().st_mtime_ns > at for path in lake.rglob("*.*") if path.is_file()):
        return "making again"
    return "taking away" if began - names(lake) else "reading"


def damage(lake: Path, dice: random.Random) -> None:
    """One object as a failing disk may leave it; zarr.json stays whole: it or the seal must tell the layout."""
    pattern = dice.choice(("sites/*/c.*.0", "sites/*/c.*.0", "done/*/*.json", "sealed/*.json"))
    objects = sorted(path for path in lake.rglob(pattern) if not path.name.startswith("."))
    if not objects:
        return
    path = dice.choice(objects)
    ways: tuple[Damage, ...] = (_flip, _cut, lambda path, dice: path.unlink())
    dice.choice(ways)(path, dice)


def _flip(path: Path, dice: random.Random) -> None:
    data = bytearray(path.read_bytes())
    if data:
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        path.write_bytes(data)


def _cut(path: Path, dice: random.Random) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: dice.randrange(len(data) + 1)])
