"""Checkpoints of a job at work, in the folder of the artifact that it will leave; they go when it is finished.

`attempt-checkpoint/<number>-<crc32c>`: created once, so one that is there is whole, and one that is damaged is passed
over. A job that never ends leaves them to `garner gc`, like everything else of an attempt.
"""

import logging
from collections.abc import Sequence

import google_crc32c

from storage.url import Folder

log = logging.getLogger("garner.checkpoint")


class Checkpoints:
    """The checkpoints of one artifact in the making, by a number that rises."""

    def __init__(self, artifact: Folder) -> None:
        self._folder = artifact / "attempt-checkpoint"

    def numbers(self) -> tuple[int, ...]:
        """Of all that are there, the latest first."""
        return tuple(sorted((int(name.partition("-")[0]) for name in self._folder.names()), reverse=True))

    def read(self, number: int) -> bytes | None:
        """The checkpoint of that number; none where it has gone or is damaged, which is said in the log."""
        for name in self._folder.names():
            if int(name.partition("-")[0]) == number and (data := self._folder.find(name)) is not None:
                if google_crc32c.value(data) == int(name.partition("-")[2], 16):
                    return data
                log.warning("checkpoint %s is damaged and passed over", self._folder / name)
        return None

    def write(self, number: int, data: bytes) -> None:
        """Keep a checkpoint."""
        self._folder.create(f"{number:012d}-{google_crc32c.value(data):08x}", data)

    def keep_only(self, numbers: Sequence[int]) -> None:
        """Remove all others."""
        for name in self._folder.names():
            if int(name.partition("-")[0]) not in numbers:
                self._folder.remove(name)
