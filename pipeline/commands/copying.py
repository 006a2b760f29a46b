"""Commands that take things out of a lake: `copy` into another one, `export` for those without garner."""

import argparse

from pipeline.commands.parsers import Commands


def add(commands: Commands) -> None:
    """Declare them."""
    copy = commands.add_parser("copy", help="copy a cache or an artifact into another lake; again to finish")
    copy.add_argument("lake")
    copy.add_argument("name", help="a name that `garner ls` shows")
    copy.add_argument("destination", help="URL of the other lake")
    copy.add_argument("--with-inputs", action="store_true", help="of an artifact: also what it was made from")
    copy.add_argument("--no-verify", action="store_true", help="do not read the copied cache again")
    copy.set_defaults(command=_copy)
    export = commands.add_parser("export", help="write a cache as a plain folder for people without garner")
    export.add_argument("lake")
    export.add_argument("name", help="a cache that `garner ls` shows")
    export.add_argument("folder", help="an empty or new folder, or the URL of one")
    export.add_argument("--site", action="append", default=[], metavar="SITE", help="repeatable (default: all)")
    export.set_defaults(command=_export)


def _copy(arguments: argparse.Namespace) -> int:
    from pipeline.copying import copied
    from pipeline.progress import Progress

    lines = copied(
        arguments.lake,
        arguments.name,
        arguments.destination,
        Progress(),
        with_inputs=arguments.with_inputs,
        check=not arguments.no_verify,
    )
    for line in lines:
        print(line)
    return 0


def _export(arguments: argparse.Namespace) -> int:
    from pipeline.export import exported
    from pipeline.progress import Progress

    for line in exported(arguments.lake, arguments.name, arguments.folder, arguments.site, Progress()):
        print(line)
    return 0
