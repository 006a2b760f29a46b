"""Commands over a lake's bytes: `ls`, `show`, `verify`, `repair`."""

import argparse

from pipeline.commands.parsers import Commands


def add(commands: Commands) -> None:
    """Declare them."""
    ls = commands.add_parser("ls", help="list the caches and artifacts of a lake")
    ls.add_argument("lake")
    ls.set_defaults(command=_ls)
    show = commands.add_parser("show", help="show one cache or artifact")
    show.add_argument("lake")
    show.add_argument("name", help="a name that `garner ls` shows")
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
    from pipeline.catalogue import listing

    for line in listing(arguments.lake):
        print(line)
    return 0


def _show(arguments: argparse.Namespace) -> int:
    from pipeline.catalogue import shown

    for line in shown(arguments.lake, arguments.name):
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
