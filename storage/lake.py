"""A lake: a root URL that holds caches and artifacts."""

import uuid

from storage.artifact import Artifact
from storage.cache import Cache, create
from storage.errors import InputError
from storage.manifest import CacheRecord
from storage.removal import REMOVED
from storage.url import Folder
from storage.value import checked_name


class Lake:
    """Caches and artifacts under one URL (`./lake`, `s3://team/lake`, `memory://lake`)."""

    def __init__(self, url: str, mirror: str | None = None) -> None:
        """`mirror` is a folder of this machine that keeps every shard of a remote lake once it was read."""
        self.folder = Folder.at(url)
        self._mirror = mirror

    def check_writable(self) -> None:
        """Create and remove one small object, before anything expensive starts."""
        name = f"probe-{uuid.uuid4().hex}"
        try:
            self.folder.create(name, b"")
            self.folder.remove(name)
        except OSError as error:
            raise InputError(f"cannot write to lake {self.folder}: {error}; choose a lake you may write to") from error

    def caches(self) -> tuple[str, ...]:
        """Folder names of all caches."""
        names = self.folder.names("caches")
        return tuple(name for name in names if _there(self.folder / "caches" / name, "cache.json"))

    def cache(self, name: str) -> Cache:
        """A cache by its folder name, its bare name, or its id; the latter two where only one has it."""
        checked_name(name, "a cache")
        found = [one for one in self.caches() if name in (one, *one.rsplit("-", 1))]
        if len(found) != 1:
            have = "; it holds " + ", ".join(self.caches()) if self.caches() else "; it holds none"
            problem = f"no cache {name!r}" if not found else f"{len(found)} caches named {name!r}: give the id too"
            raise InputError(f"lake {self.folder} has {problem}{have}")
        return Cache(self.folder / "caches" / found[0], mirror=self._mirror)

    def find(self, record: CacheRecord) -> Cache | None:
        """The cache with that identity, whatever its folder's name."""
        names = [name for name in self.folder.names("caches") if name.endswith(f"-{record.id}")]
        held = [name for name in names if _there(self.folder / "caches" / name, "cache.json")]
        return Cache(self.folder / "caches" / held[0]) if held else None

    def create(self, record: CacheRecord) -> Cache:
        """The cache of that record, found or made."""
        return self.find(record) or create(self.folder / "caches" / record.folder, record)

    def artifacts(self) -> tuple[str, ...]:
        """Folder names of all finished artifacts."""
        names = self.folder.names("artifacts")
        return tuple(name for name in names if _there(self.folder / "artifacts" / name, "record.json"))

    def artifact_folder(self, name: str) -> Folder:
        """Where the artifact of that name lies, finished or not."""
        return self.folder / "artifacts" / checked_name(name, "an artifact")

    def artifact(self, name: str) -> Artifact:
        """A finished artifact by its folder name."""
        return Artifact(self.artifact_folder(name))


def _there(folder: Folder, record: str) -> bool:
    """Whether the record is there, and nobody marked the folder for removal."""
    names = folder.names()
    return record in names and REMOVED not in names
