"""`garner harvest`: the recipe that a few command-line flags amount to."""

import argparse
from pathlib import Path
from typing import Any

from pipeline.recipe import Opened, assign, opened


def recipe(arguments: argparse.Namespace) -> Opened:
    """One model, one corpus, one cache; relative paths start from the current folder."""
    files: dict[str, Any] = {"files": arguments.corpus, "labels": arguments.label}
    if arguments.text:
        files["text"] = arguments.text
    cache: dict[str, Any] = {
        "model": "model",
        "corpus": "corpus",
        "sites": arguments.site,
        "dtype": arguments.dtype,
    }
    if arguments.context is not None:
        cache["context"] = arguments.context
    table: dict[str, Any] = {
        "lake": arguments.lake,
        "models": {"model": {"name": arguments.model}},
        "corpora": {"corpus": {"vocabulary": True} if arguments.corpus == "vocabulary" else files},
        "caches": {"harvest": cache},
    }
    for setting in arguments.set:
        table = assign(table, setting)
    return opened(table, str(Path.cwd()), "harvest")
