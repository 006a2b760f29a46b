"""Commands over a lake's bytes: `ls`, `show`, `verify`, `repair`."""

import argparse
from collections.abc import Callable
from typing import TypeVar

from pipeline.commands.parsers import Commands
from storage.errors import InputError

T = TypeVar("T")


def add(commands: Commands) -> None:
    """Declare them."""
    ls = commands.add_parser("ls", help="list the caches and artifacts of a lake")
    ls.add_argument("lake")
    ls.add_argument("--model", metavar="GLOB", help="name or source of the model")
    ls.add_argument("--corpus", metavar="GLOB", help="name or source of the corpus")
    ls.add_argument("--site", help="a site that can be read, or that an artifact read")
    ls.add_argument("--owner", metavar="NAME", help="user, or user@host")
    ls.add_argument("--older", metavar="AGE", help="made at least so long ago, e.g. 30d")
    ls.add_argument("--newer", metavar="AGE", help="made at most so long ago, e.g. 12h")
    ls.add_argument("--larger", metavar="SIZE", help="at least so large, e.g. 10GiB")
    ls.add_argument("--smaller", metavar="SIZE", help="at most so large")
    ls.add_argument("--kind", metavar="GLOB", help="cache, or the kind of job")
    ls.add_argument("--json", action="store_true", help="a JSON object a line")
    ls.set_defaults(command=_ls)
    show = commands.add_parser("show", help="show one cache or artifact")
    show.add_argument("lake")
    show.add_argument("name", help="a name that `garner ls` shows")
    show.add_argument("--json", action="store_true", help="one JSON object")
    show.set_defaults(command=_show)
    verify = commands.add_parser("verify", help="re-read caches: checksums, counts, finiteness")
    verify.add_argument("lake")
    verify.add_argument("name", nargs="?", help="one cache (default: all)")
    verify.add_argument("--against-model", action="store_true", help="re-run some sequences through plain transformers")
    verify.add_argument("--model", help="where the model is now (default: where it was)")
    verify.add_argument("--sequences", type=int, default=16, help="how many sequences to re-run (default 16)")
    verify.set_defaults(command=_verify)
    repair = commands.add_parser("repair", help="make again what `garner verify` finds damaged, and nothing else")
    repair.add_argument("lake")
    repair.add_argument("name", nargs="?", help="one cache (default: all)")
    repair.add_argument("--model", help="where the model is now (default: where it was)")
    repair.add_argument(
        "--set", action="append", default=[], metavar="POOL.A=B", help="where to run it, e.g. pool.batch_tokens=4096"
    )
    repair.set_defaults(command=_repair)


def _ls(arguments: argparse.Namespace) -> int:
    from pipeline import sizes
    from pipeline.catalogue import Wanted, listing
    from storage.duration import parse
    from storage.site import Site

    wanted = Wanted(
        model=arguments.model,
        corpus=arguments.corpus,
        site=_given(arguments.site, Site.parse),
        owner=arguments.owner,
        older=_given(arguments.older, parse),
        newer=_given(arguments.newer, parse),
        larger=_given(arguments.larger, sizes.parse),
        smaller=_given(arguments.smaller, sizes.parse),
        kind=arguments.kind,
    )
    for line in listing(arguments.lake, wanted, arguments.json):
        print(line)
    return 0


def _given(text: str | None, parse: Callable[[str], T]) -> T | None:
    try:
        return None if text is None else parse(text)
    except ValueError as error:
        raise InputError(str(error)) from error


def _show(arguments: argparse.Namespace) -> int:
    from pipeline.shown import shown

    for line in shown(arguments.lake, arguments.name, arguments.json):
        print(line)
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from pipeline.verify import verify

    failed = False
    for line, good in verify(arguments):
        print(line)
        failed = failed or not good
    return 1 if failed else 0


def _repair(arguments: argparse.Namespace) -> int:
    from pipeline.repair import repair

    for line in repair(arguments):
        print(line)
    return 0
