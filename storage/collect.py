"""Carrying out what `storage.sweep` found: each cache and artifact under its lease, and looked at again under it."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from storage.errors import InputError
from storage.lake import Lake
from storage.lease import Lease, LeaseLost
from storage.references import references
from storage.removal import EXPIRED, REMOVED, alone, mark, purge
from storage.sweep import GRACE, Found, find, look


def collect(lake: Lake, grace: float = GRACE, clock: Callable[[], float] | None = None) -> Iterator[Found]:
    """Remove what can go, and say what went and what has to stay; killed anywhere, the next call goes on."""
    for one in tuple(find(lake, look(lake, grace, clock))):
        item = "/".join(one.path.split("/")[:2])
        if one.action == "keep":
            yield one
        elif not item.startswith(("caches/", "artifacts/")):
            _drop(lake, one)  # under no lease, for nobody makes these anew
            yield one
        else:
            yield _carried(lake, item, one, grace, clock)


def _carried(lake: Lake, item: str, one: Found, grace: float, clock: Callable[[], float] | None) -> Found:
    """Do it under the lease of its cache or artifact, if it still can be done; what was done, or why not."""
    try:
        with alone(lake.folder, item) as lease:
            again = tuple(find(lake, look(lake, grace, clock, only=item, own=lease.holder.token)))
            if one not in again or any(other.action == one.action == "expire" for other in again[: again.index(one)]):
                return Found(
                    path=one.path, why="it, or what expires before it, changed while it was looked at", action="keep"
                )
            _carry_out(lake, item, one, lease)
    except (InputError, LeaseLost) as error:
        return Found(path=one.path, why=str(error), action="keep")
    return one


def _carry_out(lake: Lake, item: str, one: Found, lease: Lease) -> None:
    match one.action:
        case "purge":
            purge(lake.folder / one.path, lease.check)
        case "mark":
            _mark(lake, item, one, REMOVED, lease)
        case "expire":
            _mark(lake, item, one, EXPIRED, lease)
        case _:
            _drop(lake, one, lease.check)


def _mark(lake: Lake, item: str, one: Found, name: str, lease: Lease) -> None:
    """Mark, then look who uses it, and take the mark back if somebody does since this gc last looked."""
    folder = lake.folder / one.path
    mark(folder, name, one.why)
    around = references(lake, lease.holder.token)
    held = around.holding(item) if name == REMOVED else [*around.using(item)]
    if held:
        folder.remove(name)
        raise InputError(f"{one.why}, but {'; '.join(held)}")


def _drop(lake: Lake, one: Found, check: Callable[[], object] = lambda: None) -> None:
    for path in one.objects:
        check()
        lake.folder.remove(path)
    if lake.folder.local is not None:
        _prune(lake.folder.local, {(lake.folder.local / path).parent for path in one.objects})


def _prune(lake: Path, folders: set[Path]) -> None:
    """Remove folders of a local disk that are empty now, and those above them; an object store has none."""
    for folder in sorted(folders, reverse=True):
        for one in (folder, *folder.parents):
            if one == lake or not one.is_dir() or any(one.iterdir()):
                break
            with suppress(OSError):  # somebody has just written into it
                one.rmdir()
