"""The coder as training finds it: normalised by the cache's own moments, its atoms random or from candidates.

F features, D dimensions of an input, E of a target, N candidates.
"""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from jobs.core.linalg import unit_rows
from jobs.sae.coder import Coder
from jobs.sae.config import Config
from jobs.sae.dictionaries import random_atoms
from jobs.sae.parts import State
from storage.moments import Moments

_FAINT = 0.1
"""Length of the encoder's rows at the start, beside atoms of length 1: at full length the first sums of atoms
overshoot, and on a planted dictionary (1024 features, 4 epochs) TopK then ends at a mean max cosine of .68 instead of
.93, ReLU at .32 instead of .98."""


def start(
    config: Config,
    inputs: Sequence[Moments],
    targets: Sequence[Moments] | None = None,
    points_NE: Tensor | None = None,
    seed: int | None = None,
) -> Coder:
    """An untrained coder. `inputs` are the moments of each source, `targets` those of another row than the input."""
    seed = config.seed if seed is None else seed
    shift_D, scale_D = normalisation(config.normalise, inputs)
    shift_E, scale_E = (shift_D, scale_D) if targets is None else normalisation(config.normalise, targets)
    mean_E = np.concatenate([one.mean for one in (inputs if targets is None else targets)])
    own = State(config.dictionary.start(random_atoms(config.width, len(mean_E), seed), points_NE, seed))
    atoms_FE = config.dictionary.atoms(own).detach()
    hears_FD = unit_rows(atoms_FE) if targets is None else random_atoms(config.width, len(shift_D), seed)
    arrays = {
        "W_dec": atoms_FE.numpy(),
        "b_enc": np.zeros(config.width),
        "b_dec": (mean_E - shift_E) * scale_E * config.dictionary.biased,
        "shift": shift_D,
        "scale": scale_D,
    }
    if config.encoder == "linear":
        arrays["W_enc"] = hears_FD.numpy().T * _FAINT
    if targets is not None:
        arrays |= {"target_shift": shift_E, "target_scale": scale_E}
    if config.skip:
        arrays["W_skip"] = np.zeros((len(shift_D), len(shift_E)))
    if len(inputs) > 1:
        arrays["blocks"] = np.array([len(one.mean) for one in inputs])
    arrays |= State(config.activation.start(config.width)).arrays("activation.")
    if set(dict(own.named_parameters())) != {"W_dec"}:
        arrays |= own.arrays("dictionary.")
    return Coder(arrays, config.activation, config.dictionary)


def rebuilt_space(config: Config, sources: Sequence[Moments]) -> tuple[np.ndarray, np.ndarray]:
    """Shift and scale of rows as atoms are to rebuild them at the start: less the decoder's bias, if it has one."""
    shift_E, scale_E = normalisation(config.normalise, sources)
    return np.concatenate([one.mean for one in sources]) if config.dictionary.biased else shift_E, scale_E


def normalisation(kind: str, sources: Sequence[Moments]) -> tuple[np.ndarray, np.ndarray]:
    """Shift and scale of each dimension, source by source, so that a learning rate means the same at every site."""
    means = [one.mean for one in sources]
    tiny = np.finfo(np.float32).tiny
    match kind:
        case "standardise":  # a dimension that never moves keeps its scale
            scales = [np.where(one.variance > tiny, one.variance, 1.0) ** -0.5 for one in sources]
        case "none":
            scales = [np.ones(len(mean)) for mean in means]
        case _:
            scales = [np.full(len(one.mean), (one.variance.mean() + tiny) ** -0.5) for one in sources]
    shifts = means if kind in ("centre", "standardise") else [np.zeros(len(mean)) for mean in means]
    return np.concatenate(shifts), np.concatenate(scales)
