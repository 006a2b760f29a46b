"""Disks that are full, and lakes that may only be read."""

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from storage import Lake
from tests.chaos.drivers import finished
from tests.chaos.outcome import Outcome
from tests.chaos.world import World
from tests.pipeline import tiny

_MIB = 2**20


def is_root() -> bool:
    """Whether modes do not hold this process."""
    return os.geteuid() == 0


def can_mount() -> bool:
    """Whether this process may mount a small file system."""
    return is_root() and not subprocess.run(["unshare", "--mount", "true"], check=False).returncode


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """A small file system in memory; gone after the block."""
    folder.mkdir()
    _mount("-t", "tmpfs", "-o", options, "garner-chaos", str(folder))
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def full_disks(world: World, fills: int, dice: random.Random) -> Outcome:
    """A disk that is full after a random part of the run; the run must say so, and go on once there is space."""
    outcome = Outcome("disk full (tmpfs)")
    small = world.base / "small"
    size = sum(-(-path.stat().st_size // 4096) * 4096 for path in (world.base / "undisturbed").rglob("*.*"))
    for _ in range(fills):
        shutil.rmtree(small, ignore_errors=True)
        with mounted(small, f"size={size + 8 * _MIB}") as disk:
            free = dice.randrange(size // 4096) * 4096
            ballast = _fill(disk, free)
            lake = disk / "lake"
            code, said = finished(world.run(lake), world.fine)
            outcome.runs += 1
            outcome.judge(str(lake), _unclear(code, said))
            ballast.unlink()
            if not outcome.judge(str(lake), world.wrong(lake)):
                shutil.copytree(lake, world.base / f"full-{free}")
        small.rmdir()
    return outcome.close()


def _fill(disk: Path, free: int) -> Path:
    """A file that leaves so many bytes."""
    ballast = disk / "ballast"
    state = os.statvfs(disk)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(state.f_bavail * state.f_frsize - free, 1))
    return ballast


def _unclear(code: int, said: str) -> list[str]:
    """What is wrong with how a run ended for which there was no space."""
    line = said.strip().splitlines()[-1] if said.strip() else ""
    cured = "No space left on device; free some space and run again" in line and line.startswith("garner: cannot write")
    return [] if (code, cured) == (1, True) else [f"the disk was full, and the run ended with {code}: {said[-600:]}"]


def read_only(world: World) -> Outcome:
    """Everything that only reads works on a lake that may only be read; a run with something to make is refused."""
    outcome, lake = Outcome("read-only lake"), world.base / "read-only"
    shutil.copytree(world.base / "undisturbed", lake)
    how = "a read-only mount" if is_root() else "modes"
    outcome.note = f"({how})"
    with _unwritable(lake):
        before = _everything(lake)
        for arguments in _readers(world, lake):
            code, said = finished(arguments, world.fine)
            outcome.runs += 1
            outcome.judge(str(lake), [f"{arguments} ended with {code}: {said[-600:]}"] if code else [])
        outcome.judge(str(lake), [*_unread(lake), *_unrefused(world, lake)])
        outcome.judge(str(lake), ["something was written"] if _everything(lake) != before else [])
    return outcome.close()


def _readers(world: World, lake: Path) -> list[list[str]]:
    """Commands that write nothing into a lake that lacks nothing."""
    name = Lake(str(lake)).caches()[0]
    recipe = [world.recipe, "--set", f"lake={lake}"]
    of_recipe = [[command, *recipe] for command in ("plan", "status", "run")]
    return [["ls", str(lake)], ["show", str(lake), name], ["verify", str(lake)], *of_recipe]


def _unread(lake: Path) -> list[str]:
    """What goes wrong with opening and with shuffled reading."""
    acts = tiny.only_cache(str(lake)).site("resid.1")
    rows = sum(len(x_ND) for x_ND in acts.shuffled(batch=64, seed=0, epochs=1))
    return [] if rows >= len(acts) - 64 else [f"shuffled reading gave {rows} rows of {len(acts)}"]


def _unrefused(world: World, lake: Path) -> list[str]:
    """The weights are nonsense, so that a run that loads the model ends otherwise than with 2."""
    model = tiny.save_decoder(world.base / "nonsense")
    (model / "model.safetensors").write_bytes(b"nonsense")
    code, said = finished([*world.run(lake), "--set", f"models.model.name={model}"], world.fine)
    good = code == 2 and said.startswith(f"garner: cannot write to lake {lake}") and "choose a lake" in said
    return [] if good else [f"a run with something to make ended with {code}: {said[-600:]}"]


@contextmanager
def _unwritable(lake: Path) -> Iterator[None]:
    """By a mount for root, whom modes do not hold."""
    if is_root():
        _mount("--bind", str(lake), str(lake))
        _mount("-o", "remount,ro,bind", str(lake))
        try:
            yield
        finally:
            subprocess.run(["umount", "--lazy", str(lake)], check=True)
        return
    folders = [lake, *(path for path in lake.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        yield
    finally:
        for folder in folders:
            folder.chmod(0o755)


def _everything(lake: Path) -> set[Path]:
    return set(lake.rglob("*"))


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)
