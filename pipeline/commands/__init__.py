"""The subcommands of `garner`, a module for each group of them.

A module has `add(commands)`, which declares its parsers. Heavy imports wait inside the functions that need them, so
that `garner --help` is instant.
"""

from pipeline.commands import coders, copying, lakes, nightly, recipes, sharing, submit

MODULES = (recipes, nightly, submit, lakes, copying, coders, sharing)
