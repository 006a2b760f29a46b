"""`nightly`: scheduled runs of recipes."""

import argparse
import signal
from datetime import UTC, datetime
from types import FrameType

from pipeline.commands.parsers import Commands, add_settings
from storage.errors import InputError


def add(commands: Commands) -> None:
    """Declare it."""
    text = "run what is due of recipes' schedules; call it from any timer, as often as you like"
    nightly = commands.add_parser("nightly", help=text, description=text)
    nightly.add_argument("recipes", nargs="+", metavar="RECIPE", help="a recipe with a [schedule]; one after the other")
    add_settings(nightly)
    nightly.add_argument("--now", help=argparse.SUPPRESS)
    nightly.set_defaults(command=_nightly)


def _nightly(arguments: argparse.Namespace) -> int:
    from pipeline.nightly import nightly

    now = _moment(arguments.now) if arguments.now else datetime.now(UTC)
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        return nightly(arguments.recipes, arguments.set, now, print)
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """What keeps machines says stop as people do: in order, with a record of it."""
    raise KeyboardInterrupt


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise InputError(f"--now {text!r}: write it as 2026-11-23T02:00:00+00:00") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
