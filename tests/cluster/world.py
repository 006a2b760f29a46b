"""What is disturbed: a tiny model, a corpus of some forty units, and the lake that an undisturbed run leaves."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.cluster.command import Run, garner, running
from tests.pipeline import tiny
from tests.pipeline.test_resume import objects

_UNIT = 8192
_FORWARD = 16
"""Tokens of one forward pass: so few that a unit takes about a second."""


class World:
    """A recipe in a folder, and a run of it that nothing disturbs, which starts at once."""

    def __init__(self, base: Path, undisturbed: Run) -> None:
        self.base, self._undisturbed = base, undisturbed

    def run(self, lake: Path, address: str) -> list[str]:
        """The command that fills a lake on a cluster."""
        pool = ("pool.kind=ray", f"pool.address={address}", f"lake={lake}")
        return garner("run", str(self.base / "tiny.toml"), *(word for one in pool for word in ("--set", one)))

    def wrong(self, lake: Path) -> list[str]:
        """Objects of a lake that are not what the undisturbed run left, to the byte, and what `garner verify` says."""
        assert self._undisturbed.wait() == 0, self._undisturbed.said
        there, wanted = objects(lake), objects(self.base / "undisturbed")
        assert len(wanted) > 4 * 39
        differ = sorted(name for name in there.keys() | wanted.keys() if there.get(name) != wanted.get(name))
        with running(garner("verify", str(lake)), environment(), self.base / "verify.log") as verify:
            return differ + ([verify.said] if verify.wait() else [])


@contextmanager
def world(base: Path) -> Iterator[World]:
    """A world in a folder."""
    tiny.save_decoder(base / "model")
    for number in range(4):
        words = [f"{number} {n} " + "of some words " * (n % 40) for n in range(300)]
        tiny.write_texts(base / "docs" / f"{number}.jsonl", words)
    table = tiny.table(
        base / "model", base, lake="undisturbed", sites=["embed", "resid.1"], context=_FORWARD, unit=_UNIT
    )
    recipe = tiny.write_recipe(table | {"pool": {"kind": "local", "batch_tokens": _FORWARD}}, base)
    with running(garner("run", recipe), environment(), base / "undisturbed.log") as undisturbed:
        yield World(base, undisturbed)


def environment(**more: str) -> dict[str, str]:
    """This process's, without what it says of Ray; one thread, as an actor has, for the last bits follow from that."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return ours | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"} | more


def marks(lake: Path) -> dict[Path, Mapping[str, Any]]:
    """Every mark that is there, and what tells whether it was written again."""
    found = {}
    for path in lake.rglob("done/*/*.json"):
        with suppress(FileNotFoundError):
            found[path] = {**tiny.mark(path), "inode": path.stat().st_ino, "changed": path.stat().st_mtime_ns}
    return found


def hosts_of(lake: Path) -> set[str]:
    """Names of the hosts whose workers have marked units."""
    return {mark["worker"].rpartition(":")[0] for mark in marks(lake).values()}
