"""Folders behind URLs: read, list, and create once. The only place that knows a local disk from a bucket."""

import errno
import logging
import os
import threading
import uuid
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
from fsspec.implementations.memory import MemoryFileSystem

from storage.errors import InputError, RunError

Buffer = bytes | memoryview

log = logging.getLogger(__name__)

_FULL = (errno.ENOSPC, errno.EDQUOT)
_MEMORY_LOCK = threading.Lock()
_SINGLE_PUT = 5 * 2**30
"""The largest body that S3 takes in one PUT, the only kind that honours a condition everywhere."""


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
        data: bytes = self._fs.cat_file(self._path(name), start=start, end=stop)
        return data

    def find(self, name: str) -> bytes | None:
        """The bytes of one object, or None if it is not there."""
        try:
            return self.read(name)
        except FileNotFoundError:
            return None

    def exists(self, name: str) -> bool:
        """Whether the object is there."""
        return bool(self._fs.exists(self._path(name)))

    def names(self, name: str = "") -> tuple[str, ...]:
        """Sorted names directly below; empty if there is no such folder. Temporary files are passed over."""
        path = self._path(name) if name else self._path("").rstrip("/")
        try:
            self._fs.invalidate_cache(path)
            entries: Iterable[str] = self._fs.ls(path, detail=False)
        except FileNotFoundError:
            return ()
        except NotADirectoryError as error:
            raise InputError(f"{self} is a file, or lies below one: name a folder") from error
        except PermissionError as error:
            raise InputError(f"no permission to list {self} ({error}): make it readable, or name another") from error
        found = {PurePosixPath(entry).name for entry in entries if entry.rstrip("/") != path.rstrip("/")}
        return tuple(sorted(one for one in found if not one.startswith(".")))

    def create(self, name: str, *parts: Buffer) -> bool:
        """Create one object from `parts`, whole or not at all; False if it was there already (it is left as it is)."""
        try:
            if self.local is not None:
                return _create_local(self.local / name, parts)
            if isinstance(self._fs, MemoryFileSystem):
                return _create_in_memory(self._fs, self._path(name), b"".join(parts))
            return _create_remote(self._fs, self._path(name), b"".join(parts))
        except PermissionError as error:
            raise InputError(
                f"cannot write {self / name}: permission denied; choose a lake you may write to"
            ) from error
        except OSError as error:
            if error.errno not in _FULL:
                raise
            raise RunError(
                f"cannot write {self / name}: {error.strerror}; free some space and run again, what is whole stays"
            ) from error

    def replace(self, name: str, data: bytes) -> None:
        """Write a derived page that may be made again (a report); never used for a record."""
        try:
            if self.local is not None:
                (self.local / name).parent.mkdir(parents=True, exist_ok=True)
            self._fs.pipe_file(self._path(name), data)
        except OSError as error:
            raise InputError(f"cannot write {self / name} ({error}): name a place you may write to") from error

    def remove(self, name: str) -> None:
        """Delete one object or everything below a folder."""
        self._fs.rm(self._path(name), recursive=True)

    @property
    def _fs(self) -> Any:
        try:
            return fsspec.core.url_to_fs(self.url)[0]
        except (ImportError, ValueError) as error:
            raise InputError(
                f"cannot open {self.url} ({error}): name a folder, or install the fsspec package of that scheme"
            ) from error

    def _path(self, name: str) -> str:
        return str(self._fs._strip_protocol(f"{self.url}/{name}" if name else self.url))


def proves_exclusive(folder: Folder) -> bool:
    """Whether the store really refuses to create the same object twice; some gateways ignore the condition."""
    name = f"probe-{uuid.uuid4().hex}"
    folder.create(name, b"first")
    second = folder.create(name, b"second")
    folder.remove(name)
    return not second


def _create_local(path: Path, parts: Iterable[Buffer]) -> bool:
    """link(2) of a synced temporary file: exclusive on every local file system, and whole after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        return False
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb", buffering=0) as file:
            for part in parts:
                _write_all(file.fileno(), part)
            os.fsync(file.fileno())
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()
    _sync_folder(path.parent)
    return True


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


def _create_remote(fs: Any, path: str, data: bytes) -> bool:
    """One conditional PUT. Servers spell "exists already" differently, so any refusal is settled by looking."""
    if len(data) >= _SINGLE_PUT:
        raise RunError(f"{path} would be {len(data)} bytes, over the 5 GiB of one PUT: use smaller shards or parts")
    try:
        fs.pipe_file(path, data, mode="create", **({"chunksize": _SINGLE_PUT} if "s3" in fs.protocol else {}))
    except FileExistsError:
        return False
    except OSError:
        if fs.exists(path):
            return False
        raise
    return True
