"""What a submitted job consists of: garner's own code, the recipe made portable, and a note of both. Sends nothing."""

import re
import subprocess
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pipeline.portable import portable
from pipeline.recipe import Opened
from storage.artifact import VERSION
from storage.errors import InputError
from storage.value import Value, canonical, checked_name, identity
from workers.one_root import code_files, fingerprint, one_root

Command = Literal["run", "nightly"]
LogFormat = Literal["text", "json"]

NOTE = "submission.json"
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The time of every file in the package, so that equal content is an equal package."""


class Note(Value):
    """`submission.json`: what the job is to do, and which code it must do it with."""

    command: Command
    recipe: str
    """File name beside this one."""
    log: LogFormat
    version: str
    code: str
    """Fingerprint of the four packages."""
    commit: str | None
    """Of the checkout they were taken from, if any; `-dirty` with changes on top."""
    seen: str | None = None
    """A file that the job must see where the recipe names local places: the recipe itself, where it lay."""


class Submission(Value):
    """A job that can be sent."""

    name: str
    """Of its first attempt; the same for the same recipe, settings and command."""
    note: Note
    toml: str
    """The recipe."""


def prepare(
    path: str, settings: Sequence[str], opened: Opened, command: Command, log: LogFormat, shared_disk: bool
) -> Submission:
    """What to send for the recipe at `path`, which was read as `opened`."""
    sent, root = portable(path, settings, opened), one_root()
    if sent.local and not shared_disk:
        raise InputError(
            "the recipe names places on this machine's disk, which a cluster does not see:\n  "
            + "\n  ".join(sent.local)
            + "\nput them in a bucket, or, where every machine of the cluster has the same disk at the same path, "
            "add --shared-disk"
        )
    note = Note(
        command=command,
        recipe=f"{opened.title}.toml",
        log=log,
        version=VERSION,
        code=fingerprint(root),
        commit=_commit(root),
        seen=str(Path(path).resolve()) if sent.local else None,
    )
    return Submission(name=_name(opened.title, sent.toml, command), note=note, toml=sent.toml)


def named(submission: Submission, name: str) -> Submission:
    """The same job under a name of the user's own."""
    return Submission(name=checked_name(name, "--id"), note=submission.note, toml=submission.toml)


def package(submission: Submission, folder: Path) -> Path:
    """A zip file in `folder` with what the job needs and no more; checked file by file against what is imported here.

    Ray would zip a folder by itself, but leaves out what any .gitignore or .rayignore in it names.
    """
    root, path = one_root(), folder / "garner.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        _add(archive, NOTE, canonical(submission.note))
        _add(archive, submission.note.recipe, submission.toml.encode())
        for name, file in code_files(root).items():
            _add(archive, name, file.read_bytes())
    check_package(path, submission.note.code)
    return path


def check_package(path: Path, code: str) -> None:
    """That the package unpacks to exactly the code whose fingerprint is given."""
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(path) as archive:
        archive.extractall(folder)
        if (found := fingerprint(Path(folder))) != code:
            raise InputError(f"the code changed while it was packed ({code}, then {found}): submit again")


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.external_attr = 0o644 << 16
    info.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(info, data)


def _name(title: str, toml: str, command: Command) -> str:
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", title).strip("-")[:40] or "recipe"
    return f"garner-{plain}-{identity({'recipe': toml, 'command': command})}"


def _commit(root: Path) -> str | None:
    """As git names it; None where the code is not a checkout's, or there is no git."""
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return said.stdout.strip() or None
