"""The system calls of a run as strace writes them, and what of them a power cut could take back.

POSIX promises that a file's bytes survive once the file is synced, and a name in a folder once the folder is synced
after the name was made; a new folder is a name in the one above it. Nothing else is promised, in no order.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

CALLS = (
    "openat,write,pwrite64,writev,ftruncate,fsync,fdatasync,link,linkat,rename,renameat2,mkdir,mkdirat,unlink,"
    "unlinkat,rmdir"
)
_LINE = re.compile(r"(\d+) +(?:<\.\.\. )?(\w+)(?: resumed>|\()(.*)")
_DESCRIPTOR = re.compile(r"\d+<([^>]*)>")
_NAME = re.compile(r'"([^"]*)"')

Kind = Literal["open", "write", "sync", "link", "mkdir", "unlink"]


@dataclass(frozen=True)
class Call:
    """A call that did something, or began to."""

    kind: Kind
    path: str
    to: str = ""
    """The new name of a link."""
    began: int = 0
    """The line of the trace on which the call began."""
    ended: int = 0


def calls(trace: Path, lake: Path) -> Iterator[Call]:
    """Successful calls on what lies in the lake, in the order in which they ended."""
    begun: dict[str, tuple[str, int]] = {}
    for number, line in enumerate(trace.read_text(errors="replace").splitlines()):
        found = _LINE.match(line)
        if not found:
            continue
        process, name, rest = found.groups()
        if rest.endswith("<unfinished ...>"):
            begun[process] = (rest, number)
            continue
        head, began = begun.pop(process, ("", number)) if "resumed>" in line else ("", number)
        text, _, result = (head.removesuffix("<unfinished ...>") + rest).rpartition(" = ")
        if not result.startswith(("-", "?")) and (call := _call(name, text, began, number)) and _within(call, lake):
            yield call


def _call(name: str, text: str, began: int, ended: int) -> Call | None:
    quoted, held = _NAME.findall(text), _DESCRIPTOR.match(text)
    match name:
        case "openat" if "O_CREAT" in text:
            return Call("open", quoted[0], began=began, ended=ended)
        case "write" | "pwrite64" | "writev" | "ftruncate" if held:
            return Call("write", held[1], began=began, ended=ended)
        case "fsync" | "fdatasync" if held:
            return Call("sync", held[1], began=began, ended=ended)
        case "link" | "linkat":
            return Call("link", quoted[0], quoted[1], began=began, ended=ended)
        case "rename" | "renameat2":
            raise AssertionError(f"objects are never renamed: {text}")
        case "mkdir" | "mkdirat":
            return Call("mkdir", quoted[0], began=began, ended=ended)
        case "unlink" | "unlinkat" | "rmdir":
            return Call("unlink", quoted[0], began=began, ended=ended)
    return None


def _within(call: Call, lake: Path) -> bool:
    """What tells of runs and leases vouches for no data, and is left aside."""
    path = f"{call.to or call.path}/"
    return path.startswith(f"{lake}/") and not path.startswith((f"{lake}/runs/", f"{lake}/leases/"))


@dataclass
class Disk:
    """What a disk holds after some calls: for certain, and perhaps."""

    root: str
    files: dict[str, str] = field(default_factory=dict)
    """The file behind every name, by the name it was made under."""
    folders: set[str] = field(default_factory=set)
    unsynced: dict[str, int] = field(default_factory=dict)
    """Files with bytes that may be lost, and when they were written."""
    loose: dict[str, int] = field(default_factory=dict)
    """Names, of files and folders, that may be lost."""
    lingering: dict[str, int] = field(default_factory=dict)
    """Names that were removed and may come back."""

    def apply(self, call: Call) -> None:
        """Let one call happen."""
        match call.kind:
            case "open" if call.path not in self.files:
                self.files[call.path] = call.path
                self.loose[call.path] = call.ended
            case "write":
                self.unsynced[self.files.get(call.path, call.path)] = call.ended
            case "sync":
                self._sync(call)
            case "link":
                self.files[call.to] = self.files[call.path]
                self.loose[call.to] = call.ended
            case "mkdir":
                self.folders.add(call.path)
                self.loose[call.path] = call.ended
            case "unlink":
                self.files.pop(call.path, None)
                if self.loose.pop(call.path, None) is None:
                    self.lingering[call.path] = call.ended

    def _sync(self, call: Call) -> None:
        """A sync holds for what ended before it began."""
        if call.path in self.folders | {self.root}:
            for names in (self.loose, self.lingering):
                for name in [name for name, at in names.items() if at < call.began]:
                    if str(Path(name).parent) == call.path:
                        del names[name]
        elif self.unsynced.get(file := self.files.get(call.path, call.path), call.began) < call.began:
            del self.unsynced[file]

    def lost(self, path: str, record: str) -> str:
        """Why a power cut now could take the object, or part of it, and leave the record; empty if it could not."""
        if path not in self.files:
            return f"{path} was never made"
        if self.files[path] in self.unsynced:
            return f"the bytes of {path} were not synced"
        both = set(map(str, Path(record).parents))
        for name in (path, *map(str, Path(path).parents)):
            if name in self.loose and name not in both:
                return f"{name} is a new name in a folder that was not synced since"
        return ""
