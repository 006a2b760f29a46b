"""Coders that other systems left in a folder, as ours: to be measured on a cache like one that was trained here."""

from pathlib import Path
from types import ModuleType

import numpy as np

from jobs.sae import dictionary_learning, saelens
from jobs.sae.activations import Activation, BatchTopK, TopK
from jobs.sae.coder import Coder
from jobs.sae.config import Config
from jobs.sae.dictionaries import Free
from storage.errors import InputError


def foreign(config: Config, d: int) -> Coder:
    """The coder in the folder `config.foreign`; `InputError` where it is not what the config says."""
    folder = Path(config.foreign)
    arrays, activation = _read(folder)
    found, width = arrays["W_enc"].shape
    if (found, width) != (d, config.width):
        raise InputError(
            f"{folder} has {width} features of {found} dimensions; the site has {d} and the table says width = "
            f"{config.width}: set width, or name another site"
        )
    if not _alike(activation, config.activation):
        raise InputError(f"{folder} holds {activation}, the table says {config.activation}: set activation to that")
    saelens.require_numbers(arrays, folder)
    return Coder(arrays, activation, Free())


def files(folder: Path) -> tuple[Path, ...]:
    """What is read of a coder in a folder; `InputError` where it is none of a system that is known."""
    return _module(folder)[1]


def _read(folder: Path) -> tuple[dict[str, np.ndarray], Activation]:
    return _module(folder)[0].imported(folder)


def _module(folder: Path) -> tuple[ModuleType, tuple[Path, ...]]:
    """Who reads the folder, and which files of it."""
    for module in (saelens, dictionary_learning):
        wanted = folder / module.CONFIG, folder / module.WEIGHTS
        if all(path.exists() for path in wanted):
            return module, wanted
    raise InputError(
        f"{folder} is no coder that can be read: it wants {saelens.CONFIG} and {saelens.WEIGHTS} (SAELens), or "
        f"{dictionary_learning.CONFIG} and {dictionary_learning.WEIGHTS} (dictionary_learning)"
    )


def _alike(one: Activation, other: Activation) -> bool:
    """Of one kind; settings of training alone do not matter."""
    if isinstance(one, TopK | BatchTopK):
        return one == other
    return type(one) is type(other)
