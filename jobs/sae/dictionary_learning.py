"""Coders as `dictionary_learning` keeps them: a folder of `ae.pt` and `config.json`, read without running its pickle.

F features, D dimensions.
"""

import json
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch

from jobs.sae.activations import Activation, BatchTopK, Relu, TopK
from jobs.sae.gated import Gated
from jobs.sae.jump import JumpRelu
from storage.errors import InputError

WEIGHTS, CONFIG = "ae.pt", "config.json"
Arrays = dict[str, np.ndarray]

_NAMES = {
    "W_enc": ("W_enc", "encoder.weight"),
    "b_enc": ("b_enc", "encoder.bias", "gate_bias"),
    "W_dec": ("W_dec", "decoder.weight"),
    "b_dec": ("b_dec", "bias", "decoder_bias"),
}
"""What its classes call our arrays; those named `.weight` are transposed."""


def imported(folder: Path) -> tuple[Arrays, Activation]:
    """Arrays and activation of a `Coder` with a free dictionary that encodes as the folder's does."""
    try:
        trainer = json.loads((folder / CONFIG).read_text())["trainer"]
        kind = str(trainer["dict_class"])
    except KeyError as missing:
        raise InputError(
            f"{folder / CONFIG} has no {missing}: trainSAE writes one that says trainer.dict_class"
        ) from None
    try:
        weights = torch.load(folder / WEIGHTS, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise InputError(
            f"{folder / WEIGHTS} holds more than tensors, so reading it runs code of whoever wrote it: save its "
            "state_dict alone"
        ) from error
    arrays = {name: _array(weights, names, folder) for name, names in _NAMES.items()}
    if "k" in trainer:  # its earlier versions kept it here alone
        weights.setdefault("k", torch.tensor(trainer["k"]))
    return _own(kind, weights, arrays, folder)


def _array(weights: dict[str, torch.Tensor], names: tuple[str, ...], folder: Path) -> np.ndarray:
    for name in names:
        if name in weights:
            found = weights[name].float()
            return np.ascontiguousarray(found.T.numpy() if name.endswith(".weight") else found.numpy())
    raise InputError(f"{folder / WEIGHTS} has none of {', '.join(names)}; it holds {', '.join(weights)}")


def _own(kind: str, weights: dict[str, torch.Tensor], arrays: Arrays, folder: Path) -> tuple[Arrays, Activation]:
    match kind:
        case "AutoEncoder":
            return arrays, Relu()
        case "AutoEncoderTopK":
            return arrays, TopK(k=int(weights["k"]))
        case "BatchTopKSAE" | "MatryoshkaBatchTopKSAE":
            threshold = weights["threshold"].float().clamp_min(0).numpy()
            own = {"activation.threshold": threshold, "activation.weight": np.ones((), np.float32)}
            return arrays | own, BatchTopK(k=int(weights["k"]))
        case "JumpReluAutoEncoder":
            b_enc = arrays["b_enc"] + arrays["b_dec"] @ arrays["W_enc"]  # it hears rows as they are, ours less b_dec
            return arrays | {"b_enc": b_enc, "activation.threshold": weights["threshold"].float().numpy()}, JumpRelu()
        case "GatedAutoEncoder":
            own = {
                "activation.r": weights["r_mag"].float().numpy(),
                "activation.b_mag": weights["mag_bias"].float().numpy(),
            }
            return arrays | own, Gated()
        case _:
            raise InputError(
                f"{folder} holds a {kind} of dictionary_learning; AutoEncoder, AutoEncoderTopK, BatchTopKSAE, "
                "MatryoshkaBatchTopKSAE, JumpReluAutoEncoder and GatedAutoEncoder can be read"
            )
