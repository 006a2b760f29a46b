"""Leases: who works on what in a lake, without a server and without trusting any clock.

A lease is a folder of terms. Whoever creates the next term's claim holds it (creation is exclusive), changes its beat
every few seconds, and ends it by creating its end. Somebody else knows that a holder is gone when its term has ended,
when its process is known to be dead on this very machine, or when its beat did not change for the lease's expiry on
the observer's own monotonic clock; wall clocks are written for people and never compared. A holder that was
taken for dead (it slept, or its network was cut) finds a later term and stops; what it wrote meanwhile
was created once like everything in a lake, so it does no harm.
"""

import logging
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from types import TracebackType

from storage.errors import InputError, RunError
from storage.process import gone, owner, this_process
from storage.url import Folder
from storage.value import Value, checked_name, decode_signed, signed

log = logging.getLogger(__name__)

BEAT = 5.0
"""Seconds between two changes of a holder's beat."""
EXPIRY = 60.0
"""Seconds without a change after which a holder is taken for dead."""
_KEPT_TERMS = 2
_dead: dict[str, bytes | None] = {}
"""Beats, by their holder's token, that did not change for its expiry: this process waits for them once."""


class Holder(Value):
    """The claim of one term: who holds a lease."""

    name: str
    """Of the lease."""
    term: int
    """Counts the holders; the highest is the one that counts, so it fences off those before it."""
    owner: str
    """User and host, for people."""
    process: str
    """What tells this machine whether the process is still there; "" where nothing does."""
    taken: str
    """When, by the holder's own clock; for people, never compared."""
    beat: float
    """Seconds between its beats."""
    expiry: float
    """Seconds without a beat after which it is dead."""
    token: str
    """Random: tells two claims apart."""
    uses: tuple[str, ...] = ()
    """Paths in the lake (`caches/<name>`) that must stay while it is held."""

    def __str__(self) -> str:
        return f"{self.owner} (term {self.term}, since {self.taken})"


class LeaseLost(RunError):  # noqa: N818  said of the lease, as people say it
    """Another has taken the lease, because this holder gave no sign of life for too long."""


class Lease:
    """A lease that this process holds; a context manager that ends it."""

    def __init__(self, folder: Folder, holder: Holder) -> None:
        self._folder, self.holder = folder, holder
        self._stop, self._lost = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._beating, name=f"garner-lease-{holder.name}", daemon=True)
        self._thread.start()

    @property
    def term(self) -> int:
        """The fencing number."""
        return self.holder.term

    @property
    def lost(self) -> bool:
        """Whether another is known to hold it now; costs nothing to ask."""
        return self._lost.is_set()

    def check(self) -> None:
        """`LeaseLost` where another holds it now; asks the store."""
        if self.lost or _latest(self._folder) != self.term:
            self._lost.set()
            raise LeaseLost(
                f"the lease {self.holder.name} went to {_told(self._folder)}, for this process gave no sign of life "
                f"for {self.holder.expiry:.0f} s; what is finished stays, and the other goes on from there"
            )

    def release(self) -> None:
        """End the term; others can take the lease at once."""
        self._stop.set()
        self._thread.join()
        self._folder.create(_end(self.term), b"")

    def __enter__(self) -> "Lease":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.release()
        except Exception as fault:
            if error is None:
                raise
            log.warning("lease %s could not be ended (%s): it expires by itself", self.holder.name, fault)

    def _beating(self) -> None:
        count = 0
        while not self._stop.wait(self.holder.beat):
            count += 1
            try:
                self._folder.replace(_beat(self.term), str(count).encode())
                if _latest(self._folder) != self.term:
                    self._lost.set()
                    return
            except Exception as error:  # the next beat may come through; if none does, another takes the lease
                log.warning("lease %s: no sign of life could be given (%s)", self.holder.name, error)


def take(
    lake: Folder,
    name: str,
    uses: Sequence[str] = (),
    beat: float = BEAT,
    expiry: float = EXPIRY,
    waiting: Callable[[Holder], object] | None = None,
) -> Lease | Holder:
    """The lease, or its holder once that has shown that it lives; a holder that does not for `expiry` is replaced.

    With `waiting`, which is called every beat, waits until the lease is free instead of giving its holder. Raises
    `RunError` where a claim is damaged.
    """
    folder = _folder(lake, name)
    while True:
        latest, holder = _current(folder)
        if holder is not None:
            if waiting is None and _alive(folder, holder):
                return holder
            if waiting is not None and not _outwait(folder, holder, waiting):
                continue
        lease = _claim_next(folder, name, latest, tuple(uses), beat, expiry)
        if lease is not None:
            return lease


def holders(lake: Folder, own: str = "") -> tuple[Holder, ...]:
    """Everyone who holds a lease in the lake and lives, but for the holder whose token is `own`.

    Asks once around, and waits for beats where it must.
    """
    found = []
    for name in lake.names("leases"):
        folder = _folder(lake, name)
        if (holder := _current(folder)[1]) is not None and holder.token != own:
            found.append((folder, holder))
    before = [folder.find(_beat(holder.term)) for folder, holder in found]
    since = time.monotonic()
    return tuple(
        holder for (folder, holder), beat in zip(found, before, strict=True) if _alive(folder, holder, beat, since)
    )


def _folder(lake: Folder, name: str) -> Folder:
    return lake / f"leases/{checked_name(name, 'a lease')}"


def _claim_next(
    folder: Folder, name: str, latest: int, uses: tuple[str, ...], beat: float, expiry: float
) -> Lease | None:
    """The lease of the term after `latest`, or None where another was first."""
    term = latest + 1
    holder = Holder(
        name=name,
        term=term,
        owner=owner(),
        process=this_process(),
        taken=datetime.now(UTC).isoformat(timespec="seconds"),
        beat=beat,
        expiry=expiry,
        uses=uses,
        token=uuid.uuid4().hex,
    )
    # names of old terms are removed, so a slow claimant might create one again: only the latest counts
    folder.create(_name(term), signed(holder))
    if (mine := _current(folder)[1]) is None or mine.token != holder.token:
        return None
    for old in range(max(1, term - 2 * _KEPT_TERMS), term - _KEPT_TERMS + 1):
        for one in (_beat(old), _name(old), _end(old)):
            folder.remove(one)
    return Lease(folder, holder)


def _alive(folder: Folder, holder: Holder, before: bytes | None = None, since: float | None = None) -> bool:
    """Whether the holder gives a sign of life before its expiry has passed; returns as soon as that is known."""
    first = folder.find(_beat(holder.term)) if since is None else before
    since = time.monotonic() if since is None else since
    while not gone(holder.process):
        if _free(folder, holder.term):
            return False
        if (beat := folder.find(_beat(holder.term))) != first:
            return True
        known = holder.token in _dead and _dead[holder.token] == beat
        if known or time.monotonic() - since > holder.expiry:
            _dead[holder.token] = beat
            return False
        time.sleep(min(holder.beat / 4, 1.0))
    return False


def _outwait(folder: Folder, holder: Holder, waiting: Callable[[Holder], object]) -> bool:
    """Wait for the holder's next beat, or its end: True if the lease is free now."""
    if not _alive(folder, holder):
        return True
    waiting(holder)
    return False


def _current(folder: Folder) -> tuple[int, Holder | None]:
    """The latest term, 0 if there is none, and who claimed it, None if it has ended."""
    while True:
        latest = _latest(folder)
        if not latest or _free(folder, latest):
            return latest, None
        try:
            return latest, _claim(folder, latest)
        except FileNotFoundError:  # later holders removed it since
            continue


def _latest(folder: Folder) -> int:
    """The highest term that was claimed; 0 if none."""
    terms = [name.removesuffix(".json") for name in folder.names() if name.endswith(".json")]
    return max((int(term) for term in terms if term.isdigit()), default=0)


def _free(folder: Folder, term: int) -> bool:
    return folder.exists(_end(term))


def _claim(folder: Folder, term: int) -> Holder:
    where = str(folder / _name(term))
    data = folder.read(_name(term))
    try:
        return decode_signed(data, Holder, where)
    except (RunError, InputError) as error:
        raise RunError(
            f"the lease record {where} is damaged, so nobody knows who holds it: make sure that no garner works on "
            f"{folder.name}, remove the folder {folder}, and run again"
        ) from error


def _told(folder: Folder) -> str:
    with suppress(RunError, FileNotFoundError):
        return str(_claim(folder, _latest(folder)))
    return "another process"


def _name(term: int) -> str:
    return f"{term:08d}.json"


def _beat(term: int) -> str:
    return f"{term:08d}.beat"


def _end(term: int) -> str:
    return f"{term:08d}.end"
