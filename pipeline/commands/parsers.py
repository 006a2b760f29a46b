"""What the parsers of several commands have in common."""

import argparse
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
else:
    Commands = Any  # a generic class only to type checkers


def add_settings(parser: argparse.ArgumentParser) -> None:
    """`--set a.b=c`."""
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="change one field of the recipe")


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """The recipe and its settings."""
    parser.add_argument("recipe", help="the TOML file that says what should exist")
    add_settings(parser)
