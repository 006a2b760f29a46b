"""The `garner` command. Heavy imports wait until a command needs them."""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from storage.errors import GarnerError, InputError

Command = Callable[[argparse.Namespace], int]

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 done, 1 failed, 2 the user's input is wrong."""
    parsed = _parser().parse_args(arguments)
    _configure_log()
    command: Command = parsed.command
    try:
        return command(parsed)
    except InputError as error:
        print(f"garner: {error}", file=sys.stderr)
        return 2
    except GarnerError as error:
        print(f"garner: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("garner: stopped; what is finished stays, and the same command goes on from there", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="garner", description="Harvest hidden states once; fit everything else from the cache."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, command, help_text in (
        ("plan", _plan, "show what exists, what is missing, and what it will cost"),
        ("run", _run, "build what is missing"),
        ("status", _status, "show how far each cache and job has come"),
        ("report", _report, "write the page of figures of a recipe's jobs"),
    ):
        sub = commands.add_parser(name, help=help_text, description=help_text)
        sub.add_argument("recipe", help="the TOML file that says what should exist")
        sub.add_argument("--set", action="append", default=[], metavar="A.B=C", help="change one field of the recipe")
        sub.set_defaults(command=command)
        if name == "report":
            sub.add_argument("--out", help="where to write the page (default: in the lake, or here for a remote one)")
    _add_harvest(commands)
    _add_lake_commands(commands)
    demo = commands.add_parser("demo", help="harvest two small models and run four studies on embedded defaults")
    demo.add_argument("--set", action="append", default=[], metavar="A.B=C", help="change one field of the recipe")
    demo.set_defaults(command=_demo)
    return parser


def _add_harvest(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    harvest = commands.add_parser("harvest", help="harvest one model over one corpus, without a recipe")
    harvest.add_argument("model", help="hub id or local folder")
    harvest.add_argument("corpus", help="glob of .txt, .jsonl, .csv or .parquet files, or `vocabulary`")
    harvest.add_argument(
        "--site", action="append", required=True, metavar="SITE", help="embed, resid.6, ...; repeatable"
    )
    harvest.add_argument("--lake", default="./lake", help="root URL of caches (default ./lake)")
    harvest.add_argument("--dtype", default="bfloat16", help="stored number type (default bfloat16)")
    harvest.add_argument("--context", type=int, help="most tokens of a sequence (default: the model's limit)")
    harvest.add_argument("--text", help="the column that holds the text (default: text)")
    harvest.add_argument("--label", action="append", default=[], metavar="COLUMN", help="label column; repeatable")
    harvest.add_argument(
        "--set", action="append", default=[], metavar="A.B=C", help="change one field, e.g. pool.gpus=1"
    )
    harvest.set_defaults(command=_harvest)


def _add_lake_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
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


def _plan(arguments: argparse.Namespace) -> int:
    from pipeline.plan import describe
    from pipeline.recipe import read
    from pipeline.run import survey

    for step in survey(read(arguments.recipe, arguments.set))[1]:
        state, name, what = describe(step)
        print(f"{state:<6} {name:<24} {what}")
    return 0


def _run(arguments: argparse.Namespace) -> int:
    from pipeline.progress import Progress
    from pipeline.recipe import read
    from pipeline.report import summary, write
    from pipeline.run import run

    opened, progress = read(arguments.recipe, arguments.set), Progress()
    steps, receipts = run(opened, progress)
    print(summary(opened, steps))
    if not receipts and not progress.forward_tokens:
        print("nothing was missing: no forward pass, no job")
    else:
        print(f"{progress.forward_tokens:,} tokens went through models, {len(receipts)} jobs ran")
    if opened.recipe.jobs:
        print(f"report: {write(opened, steps)}")
    return 0


def _status(arguments: argparse.Namespace) -> int:
    from pipeline.recipe import read
    from pipeline.status import status

    for line in status(read(arguments.recipe, arguments.set)):
        print(line)
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from pipeline.recipe import read
    from pipeline.report import write
    from pipeline.run import survey

    opened = read(arguments.recipe, arguments.set)
    print(write(opened, survey(opened)[1], arguments.out))
    return 0


def _harvest(arguments: argparse.Namespace) -> int:
    from pipeline.adhoc import recipe
    from pipeline.progress import Progress
    from pipeline.run import run
    from pipeline.status import status

    opened = recipe(arguments)
    run(opened, Progress())
    for line in status(opened):
        print(line)
    return 0


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


def _demo(arguments: argparse.Namespace) -> int:
    import webbrowser

    from pipeline.recipe import read
    from pipeline.report import place

    recipe = Path(__file__).resolve().parent.parent / "examples" / "quickstart.toml"
    arguments.recipe = str(recipe)
    code = _run(arguments)
    page = place(read(str(recipe), arguments.set), None)
    if code == 0 and sys.stdout.isatty() and (os.environ.get("DISPLAY") or sys.platform == "darwin"):
        webbrowser.open(Path(page).as_uri())
    return code


def _configure_log() -> None:
    """One plain line per event on standard error; libraries only when something is wrong."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    for package in ("pipeline", "workers", "jobs", "storage"):
        logging.getLogger(package).setLevel(logging.INFO)


if __name__ == "__main__":
    sys.exit(main())
