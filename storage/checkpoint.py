"""Checkpoints of a job at work, in the folder of the artifact that it will leave; they go when it is finished.

`attempt-checkpoint/<number>-<crc32c>-<part>-<parts>`: parts of 1 GiB, each created once, so one that is there is whole;
a checkpoint that lacks a part, or has a damaged one, is passed over. A job that never ends leaves them to `garner gc`,
like everything else of an attempt.
"""

import logging
from collections.abc import Sequence

import google_crc32c

from storage.url import Folder

log = logging.getLogger("garner.checkpoint")

PART = 1 << 30
"""Bytes of an object at most: one PUT takes less than 5 GiB."""


class Checkpoints:
    """The checkpoints of one artifact in the making, by a number that rises."""

    def __init__(self, artifact: Folder) -> None:
        self._folder = artifact / "attempt-checkpoint"

    def numbers(self) -> tuple[int, ...]:
        """Of all that are there, the latest first."""
        return tuple(sorted({int(name.partition("-")[0]) for name in self._folder.names()}, reverse=True))

    def read(self, number: int) -> bytes | None:
        """The checkpoint of that number; none where it is not whole or damaged, which is said in the log."""
        groups: dict[str, list[str]] = {}
        for name in sorted(self._folder.names()):
            if int(name.partition("-")[0]) == number:
                groups.setdefault(name[: -len("-0000-0000")], []).append(name)
        return next((data for names in groups.values() if (data := self._joined(names)) is not None), None)

    def _joined(self, names: Sequence[str]) -> bytes | None:
        """The parts of one checkpoint as one, if all are there and as they were written."""
        _, crc, _, parts = names[0].split("-")
        data = b"".join(self._folder.find(name) or b"" for name in names)
        if len(names) == int(parts) and google_crc32c.value(data) == int(crc, 16):
            return data
        log.warning("checkpoint %s is damaged and passed over", self._folder / names[0])
        return None

    def write(self, number: int, data: bytes) -> None:
        """Keep a checkpoint."""
        crc, parts = google_crc32c.value(data), max(1, -(-len(data) // PART))
        for part in range(parts):
            piece = data[part * PART : (part + 1) * PART]
            self._folder.create(f"{number:012d}-{crc:08x}-{part:04d}-{parts:04d}", piece)

    def keep_only(self, numbers: Sequence[int]) -> None:
        """Remove all others."""
        for name in self._folder.names():
            if int(name.partition("-")[0]) not in numbers:
                self._folder.remove(name)
