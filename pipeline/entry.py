"""`python -m pipeline.entry`: what a submitted job runs, in the folder it was unpacked to."""

import logging
import sys
from pathlib import Path

from workers.one_root import PACKAGES, check_same, one_root

log = logging.getLogger("pipeline.entry")  # the module itself runs as __main__


def main() -> int:
    """Check that the code is the code that was sent, and run the command that the note names; its exit code."""
    from pipeline import logs
    from storage.errors import GarnerError, InputError

    try:
        arguments = _checked(Path.cwd())
    except GarnerError as error:
        logs.complain(str(error))
        return 2 if isinstance(error, InputError) else 1
    from pipeline.__main__ import main as garner

    return garner(arguments)


def _checked(folder: Path) -> list[str]:
    """What to give the `garner` command."""
    from pipeline import logs
    from pipeline.submit import NOTE, Note
    from storage.errors import InputError, RunError
    from storage.value import decode

    root = one_root()
    if root != folder.resolve():
        raise RunError(
            f"{', '.join(PACKAGES)} are imported from {root}, not from {folder}, to which this job was unpacked: an "
            "installed garner goes first on this machine; uninstall it, or unset PYTHONSAFEPATH and PYTHONPATH"
        )
    note = decode((folder / NOTE).read_bytes(), Note, NOTE)
    check_same(note.code)
    logs.configure(note.log)
    log.info("garner %s, code %s, commit %s, from %s", note.version, note.code, note.commit or "unknown", root)
    if note.seen and not Path(note.seen).exists():
        raise InputError(
            f"this machine does not see {note.seen}: with --shared-disk, the recipe and what it names on disk must be "
            "there on every machine of the cluster"
        )
    return ["--log", note.log, note.command, note.recipe]


if __name__ == "__main__":
    sys.exit(main())
