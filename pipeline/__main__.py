"""The `garner` command. Heavy imports wait until a command needs them."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from pipeline import commands, logs
from storage.errors import GarnerError, InputError

Command = Callable[[argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 done, 1 failed, 2 the user's input is wrong."""
    parsed = _parser().parse_args(arguments)
    logs.configure(parsed.log)
    command: Command = parsed.command
    try:
        return command(parsed)
    except InputError as error:
        logs.complain(str(error))
        return 2
    except GarnerError as error:
        logs.complain(str(error))
        return 1
    except KeyboardInterrupt:
        logs.complain("stopped; what is finished stays, and the same command goes on from there")
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="garner", description="Harvest hidden states once; fit everything else from the cache."
    )
    parser.add_argument("--log", choices=logs.FORMATS, default="text", help="log lines as text (default) or JSON")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in commands.MODULES:
        module.add(subparsers)
    return parser


if __name__ == "__main__":
    sys.exit(main())
