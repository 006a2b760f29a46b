"""`submit`: a recipe as a job on a cluster."""

from pipeline.commands.parsers import Commands


def add(commands: Commands) -> None:
    """Declare them."""
