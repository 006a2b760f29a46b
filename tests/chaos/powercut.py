"""Power cuts: no order in which a disk loses what was not synced leaves a record without what it vouches for.

The system calls of a real run, whose first drivers die between a link and the sync of its folder, are replayed on a
model of a disk. Every record is checked at the call that gives it its name; then disks are made as cuts at random
calls may leave them, and a run over each must end in the same cache.
"""

import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tests.chaos.drivers import ENVIRONMENT, PATIENCE, ROOT
from tests.chaos.outcome import Outcome
from tests.chaos.trace import CALLS, Call, Disk, calls
from tests.chaos.world import World, target

_SHOWN = 5


def missing() -> str:
    """Why there can be no trace; empty if there can."""
    if not shutil.which("strace"):
        return "strace not found: apt-get install strace"
    traced = subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, check=False)
    return "strace may not trace here" if traced.returncode else ""


def power_cuts(world: World, deaths: int, cuts: int, dice: random.Random) -> Outcome:
    """A traced run through so many deaths, the order of its calls, and so many power cuts."""
    outcome, lake = Outcome("power cuts"), world.lake("traced")
    history = list(calls(_traced(world, lake, deaths, dice.randrange(10**6)), lake))
    outcome.stages["between two syncs"] = deaths
    outcome.runs = deaths + 1
    wrong = list(_out_of_order(history, lake))
    outcome.judge(str(lake), [*wrong[:_SHOWN], *([f"{len(wrong)} records in all"] if wrong else [])])
    outcome.judge(str(lake), world.wrong(lake))
    for number in range(cuts):
        torn = world.base / f"torn-{number}"
        at = dice.randrange(len(history))
        tear(_disk(history[:at], lake), lake, torn, dice)
        if outcome.judge(str(torn), world.wrong(torn)):
            shutil.rmtree(torn)
    records = sum(call.kind == "link" for call in history)
    outcome.note = f"({len(history)} calls, {records} objects checked, {cuts} cuts)"
    return outcome.close()


def _traced(world: World, lake: Path, deaths: int, seed: int) -> Path:
    trace = world.base / "strace.txt"
    strace = ["strace", "-f", "-y", "-qq", "-s", "0", "--seccomp-bpf", "-e", f"trace={CALLS}", "-o", str(trace)]
    relay = [sys.executable, "-m", "tests.chaos.relay", str(deaths), str(seed), *world.run(lake)]
    strace[strace.index("0")] = "300"
    done = subprocess.run(
        [*strace, *relay],
        cwd=ROOT,
        env=os.environ | ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the traced run ended with {done.returncode}: {done.stderr[-600:]}")
    return trace


def _out_of_order(history: Sequence[Call], lake: Path) -> Iterator[str]:
    """Records whose link began before what they vouch for was certain to last."""
    disk = Disk(str(lake))
    begun = [(call.began, 0, call) for call in history if call.kind == "link"]
    for _, ended, call in sorted([*begun, *((call.ended, 1, call) for call in history)], key=lambda one: one[:2]):
        if ended:
            disk.apply(call)
        elif problem := _unfounded(disk, call, lake):
            yield f"{call.to.removeprefix(f'{lake}/')} was made while {problem}"


def _unfounded(disk: Disk, call: Call, lake: Path) -> str:
    """The first thing that the record could be left without; empty if there is none."""
    if disk.files.get(call.path) in disk.unsynced:
        return "its own bytes were not synced"
    names = vouched(call.to.removeprefix(f"{lake}/"), lake)
    return next((problem for name in names if (problem := disk.lost(f"{lake}/{name}", call.to))), "")


def vouched(record: str, lake: Path) -> list[str]:
    """The objects without which a record must not be there. A lost cache.json is made again as it was."""
    found = re.fullmatch(r"(caches/[^/]+/segments/\d+/)(.*)", record)
    if found is None or found[2] == "files.json":
        return []
    segment, name = found.groups()
    claimed = [f"{segment}files.json"]
    planned = [*claimed, f"{segment}plan.json"]
    if name.startswith("tokens/"):
        return claimed
    if name == "plan.json":
        return [*claimed, *_listed(lake / segment / "tokens", lake)]
    if name.startswith("sites/"):
        return planned
    site = Path(name).parent.name if name.startswith("done/") else Path(name).stem
    record_shards = [shard["shard"] for shard in json.loads((lake / record).read_bytes())["shards"]]
    arrays = [f"{segment}sites/zarr.json", f"{segment}sites/{site}/zarr.json"]
    shards = [f"{segment}sites/{site}/c.{shard}.0" for shard in record_shards]
    marks = _listed(lake / segment / "done" / site, lake) if name.startswith("sealed/") else []
    return [*planned, *arrays, *shards, *marks]


def _listed(folder: Path, lake: Path) -> list[str]:
    return [str(path.relative_to(lake)) for path in folder.iterdir() if not path.name.startswith(".")]


def _disk(history: Sequence[Call], lake: Path) -> Disk:
    disk = Disk(str(lake))
    for call in history:
        disk.apply(call)
    return disk


def tear(disk: Disk, lake: Path, torn: Path, dice: random.Random) -> None:
    """A lake as a cut may leave it: of what is not certain any part may be there, or not, or come back."""
    torn.mkdir()
    gone, back = _some(disk.loose, dice), _some(disk.lingering, dice)
    for name in sorted(disk.folders):
        if not gone & {name, *map(str, Path(name).parents)}:
            (torn / Path(name).relative_to(lake)).mkdir(parents=True, exist_ok=True)
    for name in sorted(disk.files.keys() | back):
        copy = torn / Path(name).relative_to(lake)
        if gone & {name, *map(str, Path(name).parents)} or not copy.parent.is_dir():
            continue
        whole = (lake / target(str(Path(name).relative_to(lake)))).read_bytes() if _is_object(name) else b""
        copy.write_bytes(_part(whole, dice) if disk.files.get(name, name) in disk.unsynced else whole)


def _some(names: Iterable[str], dice: random.Random) -> set[str]:
    """A few of the names, or half: where much is lost, records are lost with their data."""
    ordered = sorted(names)
    count = dice.choice((1, 2, 4, len(ordered) // 2))
    return set(dice.sample(ordered, min(count, len(ordered))))


def _is_object(name: str) -> bool:
    return not Path(target(name)).name.startswith("probe-")


def _part(whole: bytes, dice: random.Random) -> bytes:
    """What may be left of bytes that were not synced: all, some, none, or zeros."""
    return dice.choice([whole, whole[: dice.randrange(len(whole) + 1)], b"", bytes(len(whole))])
