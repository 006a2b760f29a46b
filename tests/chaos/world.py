"""What is disturbed: a tiny model, some files of documents, a recipe, and what an undisturbed run makes of them."""

import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import fsspec

from tests.chaos.drivers import Storage, finished
from tests.pipeline import tiny
from tests.pipeline.test_resume import objects

CONTEXT, UNIT = 8, 64
_LEFT_OVER = re.compile(r"\..+\.[0-9a-f]{32}\.tmp|probe-[0-9a-f]{32}")
"""Names of what a killed writer may leave; docs/format.md says that readers pass them over."""
_KINDS = {
    "create": r"cache\.json$|probe-",
    "claim": r"files\.json$",
    "tokenise": r"/tokens/",
    "plan": r"plan\.json$",
    "arrays": r"zarr\.json$",
    "shard": r"/c\.\d+\.0$",
    "mark": r"/done/",
    "seal": r"/sealed/",
}
"""Stages in their order, by the objects that each of them makes."""


@dataclass(frozen=True)
class World:
    """A recipe in a folder; `begun` is a lake of an earlier day that a new one starts as."""

    base: Path
    fine: bool
    """Whether shards and token parts are cut smaller than a recipe can ask for, which only forked drivers do."""
    begun: Path | None = None

    @property
    def recipe(self) -> str:
        """The path of the recipe."""
        return str(self.base / "tiny.toml")

    @property
    def undisturbed(self) -> dict[str, object]:
        """The objects of a run that nothing disturbed."""
        return objects(self.base / "undisturbed")

    def lake(self, name: str) -> Path:
        """A new lake in a folder."""
        path = self.base / name
        if self.begun:
            shutil.copytree(self.begun, path)
        else:
            path.mkdir()
        return path

    def run(self, lake: object) -> list[str]:
        """The arguments of the command that fills a lake in one process."""
        return ["run", self.recipe, "--set", f"lake={lake}"]

    def wrong(self, lake: Path) -> tuple[str, ...]:
        """After one more run: how the lake differs from the undisturbed one, and what else is not as it must be."""
        return (*self._commands(str(lake), {}), *_compared(lake, self.undisturbed))

    def wrong_bucket(self, lake: str, copy: Path, storage: Storage) -> tuple[str, ...]:
        """The same of a lake in a bucket, which is copied to be compared."""
        found = self._commands(lake, storage)
        client = {"key": storage["AWS_ACCESS_KEY_ID"], "secret": storage["AWS_SECRET_ACCESS_KEY"]}
        fs = fsspec.filesystem("s3", endpoint_url=storage["AWS_ENDPOINT_URL"], use_listings_cache=False, **client)
        fs.get(lake.removeprefix("s3://"), str(copy), recursive=True)
        return (*found, *_compared(copy, self.undisturbed))

    def _commands(self, lake: str, storage: Storage) -> tuple[str, ...]:
        run, verify = self.run(lake), ["verify", lake]
        ends = [(what, finished(what, self.fine, storage)) for what in (run, verify, run)]
        failed = [f"{what[0]} ended with {code}: {said[-600:]}" for what, (code, said) in ends if code]
        again = ends[-1][1][1]
        return (*failed, *([] if "nothing was missing" in again else [f"a second run made something: {again}"]))


def make(base: Path, files: int = 3, fine: bool = True, grown: bool = False) -> World:
    """A world of so many files of documents; a grown one has half of them, and one site of two, from the day before."""
    tiny.save_decoder(base / "model")
    table = tiny.table(base / "model", base, lake="undisturbed", sites=["embed", "resid.1"], context=CONTEXT, unit=UNIT)
    tiny.write_recipe(table, base)
    world = World(base, fine)
    for number in range(files):
        if grown and number == files // 2:
            begun = World(base, fine, begun=base / "begun")
            _done([*world.run(begun.begun), "--set", 'caches.texts.sites=["embed"]'], fine)
            world = begun
        words = [f"{number} {n} " + "of some words " * (n % 7) for n in range(10)]
        tiny.write_texts(base / "docs" / f"{number}.jsonl", words)
    _done(world.run(world.lake("undisturbed")), fine)
    return world


def _done(arguments: list[str], fine: bool) -> None:
    code, said = finished(arguments, fine)
    if code:
        raise RuntimeError(f"nothing was disturbed, and {arguments} ended with {code}: {said}")


def names(lake: Path) -> frozenset[str]:
    """Every name in a lake now but of runs and leases, left-overs included; some of folders, which no object has."""
    found = (path.relative_to(lake) for path in lake.rglob("*") if path.suffix)
    return frozenset(str(path) for path in found if path.parts[0] not in ("runs", "leases"))


def stage(expected: Iterable[str], found: frozenset[str], before: frozenset[str]) -> str:
    """Where a driver was when it died: at the object it left half-made, or else before the first that is missing."""
    half_made = [name for name in found - before if (Path(name).name).startswith(".")]
    missing = set(expected) - found
    if not missing:
        return "end"
    if found == before:
        return "start"
    return _kind([target(name) for name in half_made]) or _kind(missing)


def target(name: str) -> str:
    """The object that a temporary file was to become."""
    path = Path(name)
    return str(path.with_name(path.name[1:].rsplit(".", 2)[0])) if path.name.startswith(".") else name


def _kind(names: Iterable[str]) -> str:
    """The first stage that makes one of the objects; empty if there is none."""
    joined = [f"/{name}" for name in names]
    return next((kind for kind, pattern in _KINDS.items() if any(re.search(pattern, one) for one in joined)), "")


def kind_of(request: str) -> str:
    """The stage that a request to a store belongs to."""
    return _kind([request.partition("?")[0]]) if request.startswith("PUT") else "start or listing"


def _compared(lake: Path, undisturbed: dict[str, object]) -> list[str]:
    """Objects that are not as they should be, and left-overs that a reader might take for objects."""
    try:
        found = objects(lake)
    except ValueError as error:
        return [f"a record of {lake} is no JSON: {error}"]
    differ = sorted(name for name in found.keys() | undisturbed.keys() if found.get(name) != undisturbed.get(name))
    odd = [
        str(path.relative_to(lake))
        for path in lake.rglob("*")
        if path.is_file() and path.name.startswith((".", "probe-")) and not _LEFT_OVER.fullmatch(path.name)
    ]
    return [*(f"{name} differs" for name in differ), *(f"{name} is no left-over that readers know" for name in odd)]
