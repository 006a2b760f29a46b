"""Commands for those who share a lake: `pin`, `retention`, `rm`, `gc`, `copy`, `export`."""

from pipeline.commands.parsers import Commands


def add(commands: Commands) -> None:
    """Declare them."""
