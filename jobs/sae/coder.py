"""The coder: a row to codes and back, made of a normalisation, an encoder, an activation and a dictionary.

    x' = (x - shift) scale    z = activation((x' - b_dec) W_enc + b_enc)    x_hat = (z W_dec + b_dec) / scale + shift

A transcoder predicts another row than it reads: its input is x' alone, its target has a shift and a scale of its own,
and with `W_skip` it adds x' W_skip. In a crosscoder a row is the rows of several sources side by side.

B rows of a batch, F features, D dimensions of an input, E of a target.
"""

from collections.abc import Mapping
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from jobs.sae.activations import Activation
from jobs.sae.codes import Codes
from jobs.sae.dictionaries import Dictionary
from jobs.sae.parts import Hears, Own, State

_PART = "activation.", "dictionary."


class Coder(nn.Module):
    """Encodes rows as they are stored; the normalisation that training needs is inside."""

    shift_D: Tensor
    scale_D: Tensor
    shift_E: Tensor
    scale_E: Tensor

    def __init__(self, arrays: Mapping[str, np.ndarray], activation: Activation, dictionary: Dictionary) -> None:
        """`arrays` as `arrays()` gives them and as the artifact keeps them."""
        super().__init__()
        self.activation, self.dictionary = activation, dictionary
        self.rebuilds_its_input = "target_shift" not in arrays
        """Whether target and input are the same row: else it is a transcoder."""
        self.blocks = tuple(int(d) for d in arrays.get("blocks", [len(arrays["b_dec"])]))
        """Widths of the sources side by side in a target."""
        d, width = len(arrays.get("W_enc", arrays["W_dec"].T)), len(arrays["b_enc"])
        self.W_enc_FD = nn.Parameter(_tensor(arrays["W_enc"].T)) if "W_enc" in arrays else None
        self.b_enc_F = nn.Parameter(_tensor(arrays["b_enc"]))
        self.b_dec_E = nn.Parameter(_tensor(arrays["b_dec"]), requires_grad=dictionary.biased)
        self.W_skip_DE = nn.Parameter(_tensor(arrays["W_skip"])) if "W_skip" in arrays else None
        for side, prefix, size in (
            ("D", "", d),
            ("E", "" if self.rebuilds_its_input else "target_", len(self.b_dec_E)),
        ):
            for name, default in (("shift", np.zeros(1)), ("scale", np.ones(1))):
                array = np.broadcast_to(arrays.get(f"{prefix}{name}", default), size)
                self.register_buffer(f"{name}_{side}", _tensor(array))
        self.own_activation = State(activation.start(width))
        self.own_activation.fill(arrays, _PART[0])
        self.own_dictionary = State(_of_dictionary(arrays, dictionary))
        self._fused: Tensor | None = None
        self.register_load_state_dict_post_hook(Coder._forget)  # type: ignore[no-untyped-call]
        self.eval()

    def encode(self, x_BD: Tensor) -> Codes:
        """The codes of stored rows."""
        return self.activation.encode(self.hears(x_BD), self.own_activation, self.training)

    def decode(self, codes: Codes, x_BD: Tensor | None = None) -> Tensor:
        """The stored rows [B, E] that codes stand for; a coder with a skip wants the rows they were made of."""
        rebuilt_BE = codes.mix(self.atoms()) + self.b_dec_E
        if self.W_skip_DE is not None:
            assert x_BD is not None, "a coder with a skip decodes codes beside the rows they were made of"
            rebuilt_BE = rebuilt_BE + self.normalise(x_BD) @ self.W_skip_DE
        return rebuilt_BE / self.scale_E + self.shift_E

    def normalise(self, x_BD: Tensor) -> Tensor:
        """Rows as training sees them: variance about 1 per dimension."""
        return (x_BD - self.shift_D) * self.scale_D

    def hears(self, x_BD: Tensor) -> Hears:
        """What the features hear of stored rows."""
        W_FD = self.atoms() if self.W_enc_FD is None else self.W_enc_FD
        if not self.rebuilds_its_input:
            return Hears(self.normalise(x_BD), W_FD, self.b_enc_F)
        taken_D = self.b_dec_E.detach()
        moved_D = taken_D - self.b_dec_E if self.training and self.b_dec_E.requires_grad else None
        return Hears(self.normalise(x_BD) - taken_D, W_FD, self.b_enc_F, moved_D)

    def wanted(self, x_BD: Tensor, y_BE: Tensor) -> Tensor:
        """What the atoms are to rebuild: stored targets, normalised, less the bias and the skip."""
        wanted_BE = (y_BE - self.shift_E) * self.scale_E - self.b_dec_E
        return wanted_BE if self.W_skip_DE is None else wanted_BE - self.normalise(x_BD) @ self.W_skip_DE

    def atoms(self) -> Tensor:
        """The dictionary [F, E] in normalised units; worked out once where it does not change."""
        if self.training:
            return self.dictionary.atoms(self.own_dictionary)
        if self._fused is None:
            self._fused = self.dictionary.atoms(self.own_dictionary).detach()
        return self._fused

    @property
    def atoms_FD(self) -> Tensor:
        """The dictionary, without gradients."""
        return self.atoms().detach()

    def train(self, mode: bool = True) -> Self:
        """Switch between training and use; what was worked out for use is forgotten."""
        self._forget()
        return super().train(mode)

    def _forget(self, *_: object) -> None:
        self._fused = None

    @torch.no_grad()
    def project_gradient_(self) -> None:
        """Before an optimiser's step: drop what the dictionary's constraint would undo."""
        self.dictionary.project_gradient_(self.own_dictionary)

    @torch.no_grad()
    def project_(self) -> None:
        """After an optimiser's step: restore the dictionary's constraint."""
        self._forget()
        self.dictionary.project_(self.own_dictionary)

    @torch.no_grad()
    def arrays(self) -> dict[str, np.ndarray]:
        """Everything the coder is, float32: `W_enc` [D, F], `b_enc` [F], `W_dec` [F, E], `b_dec` [E], `shift`, `scale`
        [D], and what the activation and the dictionary have of their own."""
        named = {
            "W_enc": None if self.W_enc_FD is None else self.W_enc_FD.T,
            "b_enc": self.b_enc_F,
            "W_dec": self.dictionary.atoms(self.own_dictionary),
            "b_dec": self.b_dec_E,
            "shift": self.shift_D,
            "scale": self.scale_D,
            "W_skip": self.W_skip_DE,
            "target_shift": None if self.rebuilds_its_input else self.shift_E,
            "target_scale": None if self.rebuilds_its_input else self.scale_E,
            "blocks": torch.tensor(self.blocks) if len(self.blocks) > 1 else None,
        }
        found = {name: np.ascontiguousarray(t.detach().cpu().numpy()) for name, t in named.items() if t is not None}
        own = {**self.own_activation.arrays(_PART[0]), **self.own_dictionary.arrays(_PART[1])}
        return {**found, **{name: array for name, array in own.items() if name != "dictionary.W_dec"}}


def _of_dictionary(arrays: Mapping[str, np.ndarray], dictionary: Dictionary) -> Own:
    """Its own tensors: `W_dec` itself where it has no others."""
    named = {name.removeprefix(_PART[1]): array for name, array in arrays.items() if name.startswith(_PART[1])}
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in named.items()}
    kept = {name: tensor for name, tensor in tensors.items() if name in dictionary.kept}
    trained = {name: tensor for name, tensor in tensors.items() if name not in kept}
    return Own(trained or {"W_dec": _tensor(arrays["W_dec"])}, kept)


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(array, dtype=np.float32, order="C"))
