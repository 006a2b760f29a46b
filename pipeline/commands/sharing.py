"""Commands over what stays in a lake: `pin`, `retention`, `rm`, `gc`."""

import argparse
from collections.abc import Iterable

from pipeline.commands.parsers import Commands


def add(commands: Commands) -> None:
    """Declare them."""
    pin = commands.add_parser("pin", help="keep something, with all it stands on, from being removed")
    pin.add_argument("lake")
    pin.add_argument("name", nargs="+", help="names that `garner ls` shows")
    pin.add_argument("--why", default="", help="for those who wonder later")
    pin.add_argument("--undo", action="store_true", help="take your own pin back")
    pin.set_defaults(command=_pin)
    retention = commands.add_parser("retention", help="say how long something is kept")
    retention.add_argument("lake")
    retention.add_argument("name", help="a cache (each of its segments), an artifact, or `runs`")
    retention.add_argument("span", help="such as 30d, or `none` for ever")
    retention.set_defaults(command=_retention)
    rm = commands.add_parser("rm", help="mark for removal what nobody stands on")
    rm.add_argument("lake")
    rm.add_argument("name", nargs="+", help="names that `garner ls` shows")
    rm.add_argument("--why", default="", help="for those who wonder later")
    rm.add_argument("--undo", action="store_true", help="take the mark back")
    rm.set_defaults(command=_rm)
    gc = commands.add_parser("gc", help="remove what is marked, expired, orphaned or left unsealed")
    gc.add_argument("lake")
    gc.add_argument("--dry-run", action="store_true", help="say what would go, and remove nothing")
    gc.add_argument("--grace", default="7d", help="nothing younger goes (default 7d)")
    gc.set_defaults(command=_gc)


def _pin(arguments: argparse.Namespace) -> int:
    from pipeline.keeping import pinned
    from storage.lake import Lake

    return _say(pinned(Lake(arguments.lake), arguments.name, arguments.why, arguments.undo))


def _retention(arguments: argparse.Namespace) -> int:
    from pipeline.keeping import retained
    from storage.lake import Lake

    return _say(retained(Lake(arguments.lake), arguments.name, arguments.span))


def _rm(arguments: argparse.Namespace) -> int:
    from pipeline.keeping import marked, unmarked
    from storage.lake import Lake

    lake = Lake(arguments.lake)
    return _say(unmarked(lake, arguments.name) if arguments.undo else marked(lake, arguments.name, arguments.why))


def _gc(arguments: argparse.Namespace) -> int:
    from pipeline.keeping import collected
    from storage.lake import Lake

    return _say(collected(Lake(arguments.lake), arguments.grace, arguments.dry_run))


def _say(lines: Iterable[str]) -> int:
    for line in lines:
        print(line)
    return 0
