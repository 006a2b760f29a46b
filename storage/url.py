"""Folders behind URLs: read, list, and create once. The only place that knows a local disk from a bucket."""

import errno
import fcntl
import os
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from glob import has_magic
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from fsspec.implementations.cache_mapper import HashCacheMapper
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from storage import remote
from storage.errors import InputError, RunError

Buffer = bytes | memoryview
T = TypeVar("T")

_FULL = (errno.ENOSPC, errno.EDQUOT)
_MEMORY_LOCK = threading.Lock()
_settled: set[Path] = set()
"""Folders whose names this process knows to be synced."""


@dataclass(frozen=True)
class Object:
    """One object, left-overs of killed writers included."""

    path: str
    """Relative to the folder that was asked."""
    size: int
    modified: float
    """When it was written, in seconds by the store's clock."""


@dataclass(frozen=True)
class Folder:
    """A place under an fsspec URL; a value that can be sent to another process."""

    url: str
    """Canonical: an absolute path for a local disk, `scheme://...` otherwise; no trailing slash."""

    @classmethod
    def at(cls, url: str) -> "Folder":
        """The folder at `url` (`./lake`, `file://`, `memory://`, `s3://`); a local path is made absolute."""
        if "://" not in url or url.startswith(("file://", "local://")):
            return cls(str(Path(url.partition("://")[2] or url).expanduser().absolute()))
        return cls(url.rstrip("/"))

    def __truediv__(self, name: str) -> "Folder":
        return Folder(f"{self.url}/{name}")

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        """The last component."""
        return PurePosixPath(self.url).name

    @property
    def local(self) -> Path | None:
        """The path on this machine's disk, or None on an object store."""
        return Path(self.url) if "://" not in self.url else None

    def read(self, name: str, start: int | None = None, stop: int | None = None) -> bytes:
        """The bytes of one object, or of its range; `FileNotFoundError` if it is not there."""
        if start is not None and stop is not None:
            return self.ranges([(name, start, stop)])[0]
        data: bytes = self._ask(name, lambda fs, path: fs.cat_file(path, start=start, end=stop))
        return data

    def ranges(self, wanted: Sequence[tuple[str, int, int]]) -> list[bytes]:
        """The bytes [start, stop) of many objects, in that order, fetched many at a time; all of them, or an error."""
        asked = {n: (self._path(name), a, b) for n, (name, a, b) in enumerate(wanted) if b > a}
        found: dict[int, bytes] = {}
        while left := {n: one for n, one in asked.items() if n not in found}:
            found |= self._ask(wanted[next(iter(left))][0], partial(remote.some_ranges, left))
        for n, (name, a, b) in enumerate(wanted):
            if len(found.setdefault(n, b"")) != b - a:
                raise RunError(
                    f"{self / name} is damaged: bytes {a} to {b} were wanted, {len(found[n])} of them are there; "
                    "run `garner verify` for the whole extent"
                )
        return [found[n] for n in range(len(wanted))]

    def kept(self, name: str, keep: str) -> Path:
        """A local file with the whole object: itself, or a copy in the folder `keep`, fetched once for all processes.

        The copies are as fsspec's `simplecache` names them, which writes them in place: read while half there, and
        taken for whole after a kill. Objects never change, so one that is there is never asked for again.
        """
        if self.local is not None:
            return self.local / name
        scheme = self.url.partition("://")[0]
        copies, copy = Folder.at(f"{keep}/{scheme}"), HashCacheMapper()(self._path(name))
        if copies.local is None:
            raise InputError(f"copies cannot be kept in {keep}: name a folder on this machine's disk")
        if not (copies.local / copy).exists():
            with copies._alone(copy):
                if not (copies.local / copy).exists():
                    copies.create(copy, self._ask(name, remote.whole))
        return copies.local / copy

    def find(self, name: str) -> bytes | None:
        """The bytes of one object, or None if it is not there."""
        try:
            return self.read(name)
        except FileNotFoundError:
            return None

    def exists(self, name: str) -> bool:
        """Whether the object is there."""
        return bool(self._ask(name, lambda fs, path: fs.exists(path)))

    def names(self, name: str = "") -> tuple[str, ...]:
        """Sorted names directly below; empty if there is no such folder. Temporary files are passed over."""
        path = self._path(name).rstrip("/")
        try:
            entries: Iterable[str] = self._ask(name, lambda fs, _: fs.ls(path, detail=False))
        except FileNotFoundError:
            return ()
        except NotADirectoryError as error:
            raise InputError(f"{self} is a file, or lies below one: name a folder") from error
        except PermissionError as error:
            raise InputError(f"no permission to list {self} ({error}): make it readable, or name another") from error
        found = {PurePosixPath(entry).name for entry in entries if entry.rstrip("/") != path}
        return tuple(sorted(one for one in found if not one.startswith(".")))

    def tree(self) -> tuple[Object, ...]:
        """Every object below, sorted by path; empty if there is no such folder. All of them, or an error."""
        if self.local is not None:
            return tuple(sorted(_local_tree(self.local), key=lambda one: one.path))
        above = f"{self._path('').rstrip('/')}/"
        found: dict[str, Any] = self._ask("", lambda fs, path: fs.find(path, detail=True))
        objects = (
            Object(path.removeprefix(above), int(info.get("size") or 0), _modified(info))
            for path, info in found.items()
            if info.get("type") != "directory"
        )
        return tuple(sorted(objects, key=lambda one: one.path))

    def clock(self) -> float:
        """What time it is, in seconds by the store's clock: that of an object made for it."""
        while True:
            probe = self / f"probe-{uuid.uuid4().hex}"
            probe.create("now", b"")
            seen = probe.tree()
            self.remove(probe.name)
            if seen:  # no gc swept it away
                return seen[0].modified

    def create(self, name: str, *parts: Buffer) -> bool:
        """Create one object from `parts`, whole or not at all; False if it was there already (it is left as it is)."""
        with self._writing(name):
            if self.local is not None:
                return _create_local(self.local / name, parts)
            data = b"".join(parts)
            if isinstance(self._fs, MemoryFileSystem):
                return _create_in_memory(self._fs, self._path(name), data)
            return self._ask(name, lambda fs, path: remote.create(fs, path, data))

    def replace(self, name: str, data: bytes) -> None:
        """Write a derived page that may be made again (a report); never used for a record."""
        try:
            if self.local is not None:
                (self.local / name).parent.mkdir(parents=True, exist_ok=True)
            self._ask(name, lambda fs, path: fs.pipe_file(path, data))
        except OSError as error:
            raise InputError(f"cannot write {self / name} ({error}): name a place you may write to") from error

    def remove(self, name: str) -> None:
        """Delete one object or everything below a folder; what is gone already is gone."""
        with suppress(FileNotFoundError):
            self._ask(name, _removed)
            if self.local is not None:
                _sync_folder((self.local / name).parent)  # or a power cut brings back what nothing vouches for now

    def settle(self) -> None:
        """Let every name in this folder outlast a power cut, whoever made it: before a record vouches for them."""
        if self.local is not None and self.local.is_dir():
            _make_folder(self.local)
            _sync_folder(self.local)

    @property
    def _fs(self) -> Any:
        return remote.file_system(self.url)

    def _path(self, name: str) -> str:
        return str(self._fs._strip_protocol(f"{self.url}/{name}" if name else self.url))

    def _ask(self, name: str, request: Callable[[Any, str], T]) -> T:
        """`request(file system, path)`; on an object store it is made again where that may help."""
        if self.local is not None:
            return request(self._fs, self._path(name))
        # one process's memory is all of that store, and fsspec lists it while other threads write
        alone = _MEMORY_LOCK if self.url.startswith("memory://") else nullcontext()

        def once() -> T:
            with alone:
                return request(self._fs, self._path(name))

        return remote.ask(f"{self.url}/{name}".rstrip("/"), once)

    @contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        """Says what keeps an object from being written."""
        try:
            yield
        except PermissionError as error:
            raise InputError(
                f"cannot write {self / name}: permission denied; choose a lake you may write to"
            ) from error
        except FileNotFoundError as error:
            raise InputError(f"cannot write {self / name}: there is no such place; make it, or name another") from error
        except OSError as error:
            if error.errno not in _FULL:
                raise
            raise RunError(
                f"cannot write {self / name}: {error.strerror}; free some space and run again, what is whole stays"
            ) from error

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        """One thread of one process at a time; the lock of a process that dies is gone with it."""
        assert self.local is not None
        with self._writing(name):
            self.local.mkdir(parents=True, exist_ok=True)
            file = (self.local / f".{name}.lock").open("wb")
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def proves_exclusive(folder: Folder) -> bool:
    """Whether the store really refuses to create the same object twice; some gateways ignore the condition."""
    name = f"probe-{uuid.uuid4().hex}"
    folder.create(name, b"first")
    second = folder.create(name, b"second")
    folder.remove(name)
    return not second


def _removed(fs: Any, path: str) -> None:
    """Everything there; fsspec itself takes `*`, `?` and `[` in a path for a pattern, and removes what matches."""
    if isinstance(fs, LocalFileSystem) or not has_magic(path):
        fs.rm(path, recursive=True)
    else:
        for one in fs.find(path):
            fs.rm_file(one)


def _local_tree(root: Path) -> Iterator[Object]:
    """fsspec passes over folders that it cannot list, as if they were empty: then what they hold seems lost."""
    for folder, _, names in os.walk(root, onerror=_unlisted):
        for name in names:
            path = Path(folder, name)
            with suppress(FileNotFoundError):  # it has just gone
                found = path.stat()
                yield Object(path.relative_to(root).as_posix(), found.st_size, found.st_mtime)


def _unlisted(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):  # a folder that has just gone is as good as empty
        raise InputError(f"cannot list all that is there ({error}): make it readable, and try again") from error


def _modified(info: dict[str, Any]) -> float:
    """Of what fsspec says of an object; stores spell it differently, and one that does not tell has just been made."""
    for key in ("mtime", "LastModified", "last_modified", "updated", "created"):
        value = info.get(key)
        if isinstance(value, int | float):
            return float(value)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, str):
            return datetime.fromisoformat(value).timestamp()
    return float("inf")


def _create_local(path: Path, parts: Iterable[Buffer]) -> bool:
    """link(2) of a synced temporary file: exclusive on every local file system, and whole after a power cut."""
    _make_folder(path.parent)
    if path.exists():
        _sync_folder(path.parent)  # whoever made it may have died before its own sync
        return False
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb", buffering=0) as file:
            for part in parts:
                _write_all(file.fileno(), part)
            os.fsync(file.fileno())
        os.link(temporary, path)
        created = True
    except FileExistsError:
        created = False
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()
    _sync_folder(path.parent)
    return created


def _make_folder(path: Path) -> None:
    """Make a folder, and sync its own name and those above it on the same disk: once per process, for whoever made
    one of them may have died before its sync."""
    if path in _settled and path.is_dir():
        return
    above = path.parent
    if not path.is_dir():
        _make_folder(above)
        path.mkdir(exist_ok=True)
    if above != path and above.stat().st_dev == path.stat().st_dev:
        _make_folder(above)
        with suppress(PermissionError):  # a folder above the lake that we may only pass through
            _sync_folder(above)
    _settled.add(path)


def _write_all(descriptor: int, part: Buffer) -> None:
    view = memoryview(part).cast("B")
    while len(view):
        view = view[os.write(descriptor, view) :]


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _create_in_memory(fs: MemoryFileSystem, path: str, data: bytes) -> bool:
    with _MEMORY_LOCK:
        if fs.exists(path):
            return False
        fs.pipe_file(path, data)
        return True
