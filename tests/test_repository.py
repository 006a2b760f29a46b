"""What users are told stays true: nothing is shipped by half."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_every_package_with_code_is_shipped():
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    roots = ("pipeline", "workers", "storage", "jobs")
    there = {
        ".".join(path.parent.relative_to(ROOT).parts) for root in roots for path in (ROOT / root).rglob("__init__.py")
    }
    assert listed == there


def test_no_gitignore_line_hides_a_package():
    ignored = (ROOT / ".gitignore").read_text().split()
    assert not {"storage", "storage/", "/storage/", "jobs/", "/jobs/", "workers/", "pipeline/"} & set(ignored)
