"""Whether all of garner's code in this process is of one version: one folder, and the same files as elsewhere.

An editable install beside an uploaded copy can mix two versions, package by package, and nothing else would say so.
"""

import hashlib
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

from storage.errors import RunError
from workers.pool import Place

T = TypeVar("T")

PACKAGES = ("pipeline", "workers", "storage", "jobs")
_SUFFIXES = (".py", ".jinja")


def one_root() -> Path:
    """The folder that all four packages are imported from; `RunError` names them where they differ."""
    roots = {package: _root(package) for package in PACKAGES}
    if len(set(roots.values())) > 1:
        found = ", ".join(f"{package} from {root}" for package, root in roots.items())
        raise RunError(
            f"two versions of garner would be mixed: {found}. Remove the one that is installed "
            "(pip uninstall garner), or take its folder off PYTHONPATH"
        )
    return roots[PACKAGES[0]]


def code_files(root: Path) -> dict[str, Path]:
    """Every file of the four packages that is code, by its path below `root`, in order."""
    found: dict[str, Path] = {}
    for package in PACKAGES:
        for folder, _, names in os.walk(root / package):
            found |= {
                (Path(folder) / name).relative_to(root).as_posix(): Path(folder) / name
                for name in names
                if name.endswith(_SUFFIXES)
            }
    return dict(sorted(found.items()))


def fingerprint(root: Path) -> str:
    """12 hex digits of the SHA-256 of all code below `root`: equal where every file is."""
    digest = hashlib.sha256()
    for name, file in code_files(root).items():
        data = file.read_bytes()
        digest.update(f"{name}\0{len(data)}\0".encode() + data)
    return digest.hexdigest()[:12]


def check_same(expected: str) -> None:
    """That this process imports exactly the code whose fingerprint is `expected`: the driver's."""
    root = one_root()
    if (found := fingerprint(root)) != expected:
        raise RunError(
            f"this process imports garner {found} from {root}, the driver has {expected}: install the same version on "
            "every machine, or none and use `garner submit`, which sends its own"
        )


def checked(expected: str, make: Callable[[Place], T], place: Place) -> T:
    """What `make` builds, once it is known that the code here is the driver's."""
    check_same(expected)
    return make(place)


def _root(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise RunError(f"package {package} of garner is not there, or has no __init__.py: this copy is not whole")
    return Path(spec.origin).resolve().parents[1]
