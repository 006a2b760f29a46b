"""What users are told stays true: the cluster file is valid, and nothing is shipped by half."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_the_cluster_file_passes_rays_own_checks():
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())))


def test_the_cluster_file_opens_no_dashboard_and_runs_rays_pinned_version_with_tokens():
    text = (ROOT / "ray_cluster.yaml").read_text()
    assert "0.0.0.0" not in text
    assert text.count("RAY_AUTH_MODE=token ") >= 2
    assert re.search(r"aws_(access|secret)", text) is None
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert any(one.startswith("ray[default]==") for one in project["dependencies"])


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
