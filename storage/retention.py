"""`retention/`: how long something is kept. Each word is a new record; the highest number stands."""

from contextlib import suppress
from datetime import UTC, datetime

from storage.errors import GarnerError
from storage.process import owner
from storage.runs import runs
from storage.url import Folder
from storage.value import Value, decode_signed, signed


class Retention(Value):
    """How long."""

    path: str
    """`caches/<name>`: each of its segments; `artifacts/<name>`; `runs`: each run's folder."""
    seconds: float | None
    """None: for ever."""
    owner: str
    time: str
    """UTC by the owner's clock."""


def retain(lake: Folder, path: str, seconds: float | None) -> None:
    """Say how long `path` is kept from now on."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    said = signed(Retention(path=path, seconds=seconds, owner=owner(), time=now))
    folder = lake / _folder(path)
    while not folder.create(f"{_latest(folder) + 1:06d}.json", said):
        pass  # another spoke at the same time: speak after it


def retentions(lake: Folder) -> dict[str, float]:
    """Seconds by path, of what is not kept for ever."""
    found = {}
    for name in lake.names("retention"):
        folder = lake / f"retention/{name}"
        if (number := _latest(folder)) > 0:
            record = f"{number:06d}.json"
            said = decode_signed(folder.read(record), Retention, str(folder / record))
            if said.seconds is not None:
                found[said.path] = said.seconds
    return found


def last_nights(lake: Folder) -> frozenset[str]:
    """Folders of the last good night of each schedule: without it nobody knows which nights are covered."""
    found: dict[str, tuple[str, int, str]] = {}
    for run in runs(lake):
        with suppress(GarnerError):  # a damaged one is passed over by the schedule too
            record = run.record
            if record is not None and record.status == "done" and (name := record.night.get("schedule")):
                night = (str(record.night.get("slot", "")), int(record.night.get("term", 0)), f"runs/{run.folder.name}")
                found[name] = max(night, found.get(name, night))
    return frozenset(folder for _, _, folder in found.values())


def _latest(folder: Folder) -> int:
    numbers = [name.removesuffix(".json") for name in folder.names()]
    return max((int(number) for number in numbers if number.isdigit()), default=0)


def _folder(path: str) -> str:
    return f"retention/{path.replace('/', '.')}"
