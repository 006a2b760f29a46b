"""An artifact: the folder a job leaves. Its files first, its record last; without the record it is not there."""

import platform
import uuid
from typing import Any

import google_crc32c

from storage.errors import InputError, RunError
from storage.manifest import SCHEMA, read_versioned
from storage.url import Folder
from storage.value import Value, signed

VERSION = "0.1.0"
"""Of garner; pyproject.toml reads it from here, for a cluster may run the code without having installed it."""


class File(Value):
    """One file of an artifact."""

    name: str
    """Plain name (`weights.safetensors`, `figures/loss.svg`)."""
    path: str
    """Where it lies, relative to the artifact's folder."""
    size: int
    crc32c: int
    caption: str = ""
    """What a figure shows."""


class Input(Value):
    """One cache an artifact was made from."""

    cache: str
    """The cache's folder name."""
    segments: int
    """One past the number of the last segment that was read."""
    sites: tuple[str, ...]
    """Which of its sites were read."""
    first: int = 0
    """Number of the first segment that was read."""


class Record(Value):
    """`record.json`: what was made, from what, and what was found."""

    kind: str
    """The job's kind."""
    id: str
    config: dict[str, Any]
    """The job's whole configuration, defaults included."""
    inputs: dict[str, Input]
    """By the cache's name in the configuration."""
    report: dict[str, Any]
    """Headline, metrics and notes."""
    files: tuple[File, ...]
    """In the order in which the job wrote them."""
    versions: dict[str, str]
    seconds: float
    """Wall time of the job."""
    made: dict[str, str] = {}
    """Who made it, when (UTC) and in which run."""
    previous: str = ""
    """The artifact it went on from; "" where it was made from its caches alone."""
    artifacts: dict[str, str] = {}
    """Folder names of the artifacts of other jobs that it was made from, by their names in the configuration."""
    schema: int = SCHEMA


class ArtifactWriter:
    """Collects what one attempt leaves; two attempts never mix, for each has a folder of its own."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self._files: dict[str, File] = {}
        self._attempt = f"attempt-{uuid.uuid4().hex[:8]}"

    def write(self, name: str, data: bytes, caption: str = "") -> None:
        """Keep one file under a plain name; a name may be used once."""
        if name in self._files:
            raise RunError(f"the job wrote {name} twice")
        path = f"{self._attempt}/{_checked(name)}"
        self.folder.create(path, data)
        crc = int(google_crc32c.value(data))
        self._files[name] = File(name=name, path=path, size=len(data), crc32c=crc, caption=caption)

    @property
    def files(self) -> tuple[File, ...]:
        """What was written so far, in order."""
        return tuple(self._files.values())

    def close(self, record: Record) -> Record:
        """Write the record; if another attempt was first, its record stands and is returned."""
        self.folder.create("record.json", signed(record))
        return Artifact(self.folder).record


class Artifact:
    """A finished artifact."""

    def __init__(self, folder: Folder) -> None:
        data = folder.find("record.json")
        if data is None:
            raise InputError(f"{folder} is not a finished artifact: it has no record.json")
        self.folder = folder
        self.record = read_versioned(data, Record, str(folder / "record.json"))

    @property
    def files(self) -> dict[str, File]:
        """Every file by its plain name, in the order in which the job wrote them."""
        return {file.name: file for file in self.record.files}

    def read(self, name: str) -> bytes:
        """One file by its plain name, checked."""
        if name not in self.files:
            raise InputError(f"artifact {self.folder.name} has no {name!r}; it holds {', '.join(self.files)}")
        file = self.files[name]
        data = self.folder.read(file.path)
        if google_crc32c.value(data) != file.crc32c:
            raise RunError(f"{self.folder / file.path} is damaged: its checksum is not the one in record.json")
        return data


def versions() -> dict[str, str]:
    """Versions of what computes numbers here."""
    from importlib.metadata import version

    packages = ("torch", "transformers", "numpy", "scipy", "scikit-learn", "zarr", "pyarrow")
    return {"garner": VERSION, "python": platform.python_version()} | {name: version(name) for name in packages}


def _checked(name: str) -> str:
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in name:
        raise InputError(f"a job named a file {name!r}: use plain names such as figures/loss.svg")
    return name
