"""A classical dictionary as a coder: what `sae` measures and shows of its own it can so measure and show of this.

B rows of a batch, F features, D dimensions.
"""

from collections.abc import Mapping

import numpy as np
import torch
from safetensors.numpy import load as load_arrays
from torch import Tensor

from jobs.factors.codings import Coding
from jobs.factors.config import Config
from jobs.factors.fitted import Fitted
from jobs.sae.activations import TopK
from jobs.sae.coder import Coder
from jobs.sae.codes import Dense
from jobs.sae.dictionaries import Free
from storage.artifact import Artifact
from storage.value import convert


class Factors(Coder):
    """Encodes rows as they are stored, by the method's own coding in place of an activation."""

    def __init__(self, arrays: Mapping[str, np.ndarray], coding: Coding) -> None:
        """`arrays` as `arrays()` gives them and as the artifact keeps them."""
        super().__init__(arrays, TopK(k=1), Free())  # a coder wants an activation, and this one never asks it
        self.coding = coding

    @classmethod
    def of(cls, fitted: Fitted, shift_D: np.ndarray, scale_D: np.ndarray) -> "Factors":
        """What was found among rows (x - shift) scale."""
        width, d = fitted.atoms_FD.shape
        named = {
            "W_dec": fitted.atoms_FD,
            "b_dec": torch.zeros(d) if fitted.offset_D is None else fitted.offset_D,
            "b_enc": torch.zeros(width),
        }
        if fitted.hears_FD is not None:
            named["W_enc"] = fitted.hears_FD.T
        arrays = {name: tensor.cpu().numpy() for name, tensor in named.items()}
        return cls({**arrays, "shift": shift_D, "scale": scale_D}, fitted.coding)

    @torch.no_grad()
    def encode(self, x_BD: Tensor) -> Dense:
        """The codes of stored rows."""
        hears_FD = self.atoms() if self.W_enc_FD is None else self.W_enc_FD
        return Dense(self.coding.codes(self.wanted(x_BD, x_BD), hears_FD, self.atoms()))


def load(artifact: Artifact) -> Factors:
    """The dictionary of a finished `factors` artifact; it encodes to the same codes bit for bit."""
    config = convert(artifact.record.config, Config, f"artifact {artifact.folder.name}")
    return Factors(load_arrays(artifact.read("weights.safetensors")), config.method.coding())
