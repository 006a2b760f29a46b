"""`make chaos`: kills, full disks and power cuts over small lakes; what each left is compared with an undisturbed run.

`python -m tests.chaos --seed 7 --share 0.1 --only s3` repeats a run, makes a smaller one, or some scenarios of it.
"""

import argparse
import os
import random
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from tests.chaos import bucket, disk, kills, mending, powercut, world
from tests.chaos.drivers import ENVIRONMENT, Forked
from tests.chaos.outcome import Outcome, table
from tests.s3 import server

Scenario = Callable[[random.Random], Outcome]


def main() -> int:
    """1 if any lake is not as an undisturbed run leaves it."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6), help="of all that is random")
    parser.add_argument("--share", type=float, default=1.0, help="of the kills of a full run (default 1, some 230)")
    parser.add_argument("--only", default="", help="scenarios whose name holds this")
    chosen = parser.parse_args()
    os.environ.update(ENVIRONMENT)
    _say(f"seed {chosen.seed}: repeat with --seed {chosen.seed}")
    base, outcomes = Path(tempfile.mkdtemp(prefix="garner-chaos-")), []
    with ExitStack() as stack:
        for name, scenario in scenarios(base, chosen.share, stack):
            if chosen.only.lower() in name.lower():
                outcomes.append(scenario(random.Random(f"{chosen.seed} {name}")))
                _say(f"{name}: {outcomes[-1].kills} kills, {len(outcomes[-1].problems)} problems")
    _say(table(outcomes))
    if any(one.problems for one in outcomes):
        return 1
    shutil.rmtree(base)
    return 0


def scenarios(base: Path, share: float, stack: ExitStack) -> Iterator[tuple[str, Scenario]]:
    """Every scenario that this machine can run; those it cannot are said."""
    worlds = {name: base / name for name in ("fine", "grown", "whole", "bucket")}
    for path in worlds.values():
        path.mkdir()
    fine = world.make(worlds["fine"])
    grown = world.make(worlds["grown"], grown=True)
    whole = world.make(worlds["whole"], files=12, fine=False)
    yield from _folders(fine, grown, share)
    yield from _commands(whole, share)
    yield from _disks(fine, share)
    if server.missing():
        _say(f"S3 left out: {', '.join(server.missing())} not found: {server.INSTALL}")
        return
    yield from _buckets(world.make(worlds["bucket"], files=2), share, stack)


def _folders(fine: world.World, grown: world.World, share: float) -> Iterator[tuple[str, Scenario]]:
    for name, one, count, rivals in (
        ("forked driver", fine, 70, 1),
        ("forked driver, second day and site", grown, 25, 1),
        ("two rivals", fine, 25, 2),
        ("three rivals", fine, 25, 3),
    ):
        yield (
            name,
            lambda dice, name=name, one=one, count=count, rivals=rivals: kills.killed(
                name, one, _of(count, share), dice, lambda arguments: Forked(arguments, True), rivals
            ),
        )
    yield "repair", lambda dice: mending.killed_repairs(fine, _of(20, share), dice)


def _commands(whole: world.World, share: float) -> Iterator[tuple[str, Scenario]]:
    ray = ("pool.kind=ray", "pool.workers=2")
    for name, count, start in (
        ("garner run", 6, kills.started(False)),
        ("garner run on Ray, driver alone", 4, kills.started(False, *ray)),
        ("garner run on Ray, all at once", 3, kills.started(True, *ray)),
    ):
        yield (
            name,
            lambda dice, name=name, count=count, start=start: kills.killed(name, whole, _of(count, share), dice, start),
        )
    yield "Ray workers", lambda dice: kills.killed_workers(whole, _of(4, share), dice)


def _disks(fine: world.World, share: float) -> Iterator[tuple[str, Scenario]]:
    if disk.can_mount():
        yield "disk full", lambda dice: disk.full_disks(fine, _of(8, share), dice)
    else:
        _say("disk full left out: only root may mount a small file system")
    yield "read-only lake", lambda dice: disk.read_only(fine)
    if powercut.missing():
        _say(f"power cuts left out: {powercut.missing()}")
    else:
        yield "power cuts", lambda dice: powercut.power_cuts(fine, _of(20, share), _of(24, share), dice)


def _buckets(small: world.World, share: float, stack: ExitStack) -> Iterator[tuple[str, Scenario]]:
    store = stack.enter_context(server.serve())
    store.make_bucket("first")
    for name, count, storm, rivals in (
        ("S3", 20, 0.0, 1),
        ("S3 in a storm", 12, 0.08, 1),
        ("S3, two rivals in a storm", 8, 0.08, 2),
    ):
        yield (
            name,
            lambda dice, name=name, count=count, storm=storm, rivals=rivals: bucket.killed_over_s3(
                name, small, _of(count, share), dice, store, storm, rivals
            ),
        )


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _of(count: int, share: float) -> int:
    return max(round(count * share), 1)


if __name__ == "__main__":
    sys.exit(main())
