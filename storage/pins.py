"""`pins/`: what somebody wants to stay, with all it stands on, until they say otherwise."""

from datetime import UTC, datetime

from storage.errors import InputError
from storage.process import owner
from storage.url import Folder
from storage.value import Value, decode_signed, identity, signed


class Pin(Value):
    """One person's word that something must stay."""

    path: str
    """In the lake: `caches/<name>` or `artifacts/<name>`."""
    owner: str
    time: str
    """UTC by the owner's clock."""
    why: str = ""


def pin(lake: Folder, path: str, why: str) -> None:
    """Pin it for this user; a second time changes nothing."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    lake.create(_name(path, owner()), signed(Pin(path=path, owner=owner(), time=now, why=why)))


def unpin(lake: Folder, path: str) -> None:
    """Take this user's pin back; `InputError` where there is none, naming whose there are."""
    if not lake.exists(_name(path, owner())):
        others = ", ".join(one.owner for one in pins(lake) if one.path == path)
        raise InputError(f"{path} is not pinned by {owner()}; " + (f"it is by {others}" if others else "nor by others"))
    lake.remove(_name(path, owner()))


def pins(lake: Folder) -> tuple[Pin, ...]:
    """Every pin, by whomever."""
    names = [name for name in lake.names("pins") if name.endswith(".json")]
    found = [(name, lake.find(f"pins/{name}")) for name in names]  # one may have been taken back since
    return tuple(decode_signed(data, Pin, f"{lake}/pins/{name}") for name, data in found if data is not None)


def _name(path: str, who: str) -> str:
    return f"pins/{path.replace('/', '.')}.{identity(who)}.json"
