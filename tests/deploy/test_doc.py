"""What docs/cluster.md tells to type can be typed, and what it names is there."""

import re
import shlex

import pytest

from pipeline.__main__ import _parser
from pipeline.recipe import read
from tests.deploy.pins import DEPLOY, IMAGE, ROOT

TEXT = (ROOT / "docs" / "cluster.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = [line.partition("  #")[0].strip() for kind, block in BLOCKS if kind == "sh" for line in block.splitlines()]


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("garner ")])
def test_garner_takes_the_commands(command):
    assert _parser().parse_args(shlex.split(command)[1:]).command


@pytest.mark.parametrize("command", [command for command in COMMANDS if re.search(r"\bray \w", command)])
def test_ray_takes_the_commands(command):
    from ray.scripts.scripts import cli

    _, name, *rest = shlex.split(re.search(r"\bray [^)]+", command)[0])
    options = {option for parameter in cli.commands[name].params for option in parameter.opts}
    assert {word.partition("=")[0] for word in rest if word.startswith("-")} <= options


def test_the_pool_tables_are_ones(tmp_path):
    whole, groups = (block for kind, block in BLOCKS if kind == "toml")
    for number, table in enumerate((whole, groups)):
        path = tmp_path / f"{number}.toml"
        path.write_text(f'lake = "./lake"\n{table}')
        assert read(str(path), []).recipe.pool


def test_the_files_that_it_names_are_there():
    named = set(re.findall(r"\b(?:deploy|tests)/[\w./-]*\w|\b[\w]+\.(?:yaml|md)\b", TEXT))
    assert len(named) > 10
    for name in named - {"recipe.toml"}:
        assert any((folder / name).exists() for folder in (ROOT, ROOT / "docs", DEPLOY / "k8s")) or name.endswith(
            "garner-nightly"
        ), name
    assert IMAGE in TEXT


def test_every_deployment_file_is_told_of():
    told = TEXT + (DEPLOY / "README.md").read_text()
    for path in DEPLOY.rglob("*"):
        assert path.is_dir() or path.name in told or f"{path.parent.name}/" in told, path
