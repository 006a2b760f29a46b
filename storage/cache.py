"""A cache: one model x one corpus x one tokenisation, growing by sites and by segments."""

import logging
from collections.abc import Sequence
from functools import cached_property

from storage.errors import InputError, RunError
from storage.index import TokenIndex
from storage.manifest import CacheRecord, SourceFile, read_versioned
from storage.reader import Activations
from storage.removal import EXPIRED, revive
from storage.segment import Segment
from storage.site import Site
from storage.url import Folder, proves_exclusive
from storage.value import identity, signed

log = logging.getLogger(__name__)


class Cache:
    """An open cache. What it shows is what was sealed when it was first asked; open it again to see more."""

    def __init__(
        self,
        folder: Folder,
        window: tuple[int, int] | None = None,
        sites: Sequence[Site] | None = None,
        mirror: str | None = None,
    ) -> None:
        """The cache at `folder`; `window` shows only segments numbered so [first, stop), `sites` only those sites.

        `mirror` is a folder of this machine that keeps every shard of a remote cache once it was read.
        """
        data = folder.find("cache.json")
        if data is None:
            raise InputError(f"{folder} is not a cache: it has no cache.json")
        self.folder = folder
        self._window, self._sites, self._mirror = window, sites, mirror
        self.record: CacheRecord = read_versioned(data, CacheRecord, str(folder / "cache.json"))

    @property
    def id(self) -> str:
        """Name and identity: the folder's name in its lake."""
        return self.folder.name

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """The segments that were claimed, planned or not, and have not expired, in order."""
        first, stop = self._window or (0, len(self._claimed))
        return tuple(one for one, expired in self._claimed if not expired and first <= one.number < stop)

    @cached_property
    def _claimed(self) -> tuple[tuple[Segment, bool], ...]:
        """Every segment that was ever claimed, and whether it has expired."""
        numbers = [int(name) for name in self.folder.names("segments") if name.isdigit()]
        every = [Segment(self.folder / f"segments/{number:05d}", number) for number in sorted(numbers)]
        named = [(segment, segment.folder.names()) for segment in every]
        found = tuple((segment, EXPIRED in names) for segment, names in named if "files.json" in names)
        for number, (segment, _) in enumerate(found):
            if segment.number != number:
                raise RunError(
                    f"{self.folder}/segments/{number:05d}/files.json is lost, and later segments are there: bring back "
                    "a copy, for without it rows have other numbers"
                )
        return found

    @property
    def n_claimed(self) -> int:
        """Segments that were ever claimed, expired ones too: the number of the next."""
        return len(self._claimed)

    def restricted(self, first: int, stop: int, sites: Sequence[Site]) -> "Cache":
        """The same cache with segments [first, stop) and with `sites` only; all of that must be there and sealed."""
        shown = Cache(self.folder, (first, stop), sites, self._mirror)
        for site in sites:
            sealed = [segment.number for segment in shown.sealed_segments(site)]
            if sealed != list(range(first, stop)):
                raise RunError(
                    f"cache {self.id} has segments {sealed} of {site} where {first} to {stop - 1} are wanted: "
                    "run its recipe"
                )
        return shown

    @cached_property
    def sites(self) -> tuple[Site, ...]:
        """Sites that can be read, in order of depth."""
        sealed = self.segments[0].sealed if self.segments else frozenset()
        return tuple(sorted(site for site in sealed if self._sites is None or site in self._sites))

    @cached_property
    def n_rows(self) -> int:
        """Rows of the segments that can be read."""
        return self.tokens.n_rows

    def site(self, site: Site | str) -> Activations:
        """The rows of one site: those of the leading segments that are sealed for it."""
        wanted = Site.parse(site) if isinstance(site, str) else site
        segments = self.sealed_segments(wanted)
        if not segments:
            has = ", ".join(map(str, self.sites)) or "none yet"
            raise InputError(
                f"cache {self.id} has no site {wanted}; it holds {has}: add it to the recipe's sites and run"
            )
        return Activations(wanted, segments, self._mirror)

    def sealed_segments(self, site: Site) -> tuple[Segment, ...]:
        """The leading segments in which the site is sealed."""
        count = 0
        while count < len(self.segments) and site in self.segments[count].sealed:
            count += 1
        return self.segments[:count]

    @cached_property
    def tokens(self) -> TokenIndex:
        """The tokens of the rows that some site can show."""
        longest = max((self.sealed_segments(site) for site in self.sites), key=len, default=())
        if not longest:
            raise InputError(f"cache {self.id} has no sealed site yet: run its recipe to the end")
        return TokenIndex(longest)

    @property
    def taken(self) -> dict[str, SourceFile]:
        """Every file that some segment took, by its path."""
        return {file.path: file for segment, _ in self._claimed for file in segment.claimed.files}

    def next_segment(self) -> Segment:
        """The segment after the last one."""
        number = self.n_claimed
        return Segment(self.folder / f"segments/{number:05d}", number)


def create(folder: Folder, record: CacheRecord) -> Cache:
    """The cache of that record, made if it is not there; the store is probed for exclusive creation once.

    One that was marked for removal is kept, or made anew if its bytes have begun to go.
    """
    revive(folder)
    if not folder.exists("cache.json"):
        if not proves_exclusive(folder):
            log.warning("%s lets two writers create one object: run one driver at a time on this store", folder)
        folder.create("cache.json", signed(record))
    cache = Cache(folder)
    if identity(cache.record.identity) != record.id:
        raise RunError(f"{folder / 'cache.json'} describes another cache than its name says; remove the folder")
    return cache


def unseen(cache: Cache, files: Sequence[SourceFile]) -> tuple[SourceFile, ...]:
    """The files no segment took; a file that changed since one did is refused, for a cache never changes."""
    taken = cache.taken
    for file in files:
        old = taken.get(file.path)
        if old is not None and (old.size, old.digest) != (file.size, file.digest):
            raise InputError(
                f"{file.path} changed after cache {cache.id} took it ({old.size} bytes then, {file.size} now): "
                "caches never change, so give the new text a file name of its own, or use another lake"
            )
    return tuple(file for file in files if file.path not in taken)
