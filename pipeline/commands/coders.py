"""Commands over trained coders: `export-sae` for SAELens."""

import argparse

from pipeline.commands.parsers import Commands


def add(commands: Commands) -> None:
    """Declare them."""
    export = commands.add_parser("export-sae", help="write the coder of an artifact as a folder that SAELens loads")
    export.add_argument("lake")
    export.add_argument("name", help="an artifact of the job `sae` that `garner ls` shows")
    export.add_argument("folder", help="an empty or new folder, or the URL of one")
    export.set_defaults(command=_export)


def _export(arguments: argparse.Namespace) -> int:
    from pipeline.coders import exported

    for line in exported(arguments.lake, arguments.name, arguments.folder):
        print(line)
    return 0
