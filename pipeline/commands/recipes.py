"""Commands over recipes: `plan`, `run`, `status`, `report`, `harvest`, `demo`."""

import argparse
import os
import sys
from pathlib import Path

from pipeline.commands.parsers import Commands, add_recipe, add_settings


def add(commands: Commands) -> None:
    """Declare them."""
    for name, command, help_text in (
        ("plan", _plan, "show what exists, what is missing, and what it will cost"),
        ("run", _run, "build what is missing"),
        ("status", _status, "show how far each cache and job has come"),
        ("report", _report, "write the page of figures of a recipe's jobs"),
    ):
        sub = commands.add_parser(name, help=help_text, description=help_text)
        add_recipe(sub)
        sub.set_defaults(command=command)
        if name == "status":
            sub.add_argument("--watch", action="store_true", help="follow the newest run until it ends")
        if name == "report":
            sub.add_argument("--out", help="where to write the page (default: in the lake, or here for a remote one)")
    _add_harvest(commands)
    demo = commands.add_parser("demo", help="harvest two small models and run four studies on embedded defaults")
    add_settings(demo)
    demo.set_defaults(command=_demo)


def _add_harvest(commands: Commands) -> None:
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


def _plan(arguments: argparse.Namespace) -> int:
    from pipeline.describe import describe
    from pipeline.estimate import check_disk
    from pipeline.recipe import read
    from pipeline.run import survey
    from pipeline.worth import lines

    opened = read(arguments.recipe, arguments.set)
    steps = survey(opened)[1]
    costs = lines(opened, steps, opened.recipe.prices)
    for step in steps:
        state, name, what = describe(step)
        print(f"{state:<6} {name:<24} {what}")
        for line in costs.get(step.name, ()):
            print(f"{'':<31} {line}")
    check_disk(opened, steps)
    return 0


def _run(arguments: argparse.Namespace) -> int:
    from pipeline.progress import Progress
    from pipeline.recipe import read
    from pipeline.report import summary, write
    from pipeline.run import run

    opened, progress = read(arguments.recipe, arguments.set), Progress()
    done = run(opened, progress)
    print(summary(opened, done.steps))
    if not done.jobs and not progress.forward_tokens:
        print("nothing was missing: no forward pass, no job")
    else:
        print(f"{progress.forward_tokens:,} tokens went through models, {len(done.jobs)} jobs ran")
    if opened.recipe.jobs:
        print(f"report: {write(opened, done.steps)}")
    return 0


def _status(arguments: argparse.Namespace) -> int:
    from pipeline.recipe import read
    from pipeline.status import status
    from pipeline.watch import watch

    opened = read(arguments.recipe, arguments.set)
    for line in watch(opened) if arguments.watch else status(opened):
        print(line, flush=True)
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


def _demo(arguments: argparse.Namespace) -> int:
    import webbrowser

    from pipeline.recipe import read
    from pipeline.report import place

    recipe = Path(__file__).resolve().parents[2] / "examples" / "quickstart.toml"
    arguments.recipe = str(recipe)
    code = _run(arguments)
    page = place(read(str(recipe), arguments.set), None)
    if code == 0 and sys.stdout.isatty() and (os.environ.get("DISPLAY") or sys.platform == "darwin"):
        webbrowser.open(Path(page).as_uri())
    return code
