"""The page cache of a folder's files: dropped before a cold read, and looked at, for dropping is only a request."""

import ctypes
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

_PAGE = mmap.PAGESIZE


def files(folder: Path) -> list[Path]:
    """Every file under `folder`."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def size(folder: Path) -> int:
    """Bytes of all files under `folder`."""
    return sum(path.stat().st_size for path in files(folder))


def sync(folder: Path) -> None:
    """Wait until every file is on the disk."""
    for handle in _handles(folder):
        os.fsync(handle)


def drop(folder: Path) -> None:
    """Ask the kernel to forget the files' pages; it keeps those that are mapped or not yet written."""
    sync(folder)
    for handle in _handles(folder):
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)


def held(folder: Path) -> float:
    """The share of the files' pages that are in memory."""
    in_memory = pages = 0
    for path in files(folder):
        if path.stat().st_size:
            flags = _resident(path)
            in_memory, pages = in_memory + int(flags.sum()), pages + len(flags)
    return in_memory / max(pages, 1)


def _handles(folder: Path) -> Iterator[int]:
    for path in files(folder):
        with path.open("rb") as file:
            yield file.fileno()


def _resident(path: Path) -> np.ndarray:
    """mincore(2) of a map that touches nothing."""
    mapped = np.memmap(path, np.uint8, "r")
    flags = np.zeros(-(-len(mapped) // _PAGE), np.uint8)
    libc = ctypes.CDLL(None, use_errno=True)
    address, length = ctypes.c_void_p(mapped.ctypes.data), ctypes.c_size_t(len(mapped))
    if libc.mincore(address, length, ctypes.c_void_p(flags.ctypes.data)):
        raise OSError(ctypes.get_errno(), f"mincore of {path} failed")
    return flags & 1
