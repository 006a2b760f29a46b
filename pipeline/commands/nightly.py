"""`nightly`: scheduled runs of recipes."""

from pipeline.commands.parsers import Commands


def add(commands: Commands) -> None:
    """Declare them."""
