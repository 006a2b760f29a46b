"""Coders as SAELens keeps them: a folder of `cfg.json` and `sae_weights.safetensors`, written and read.

Its coders know neither shift nor scale, so both are folded into the weights, in float64. A coder that rebuilds its
input is centred by SAELens itself, which takes b_dec off a row first:

    pre = (x - b) (scale W_enc) + b_enc        x_hat = z (W_dec / scale) + b        b = b_dec / scale + shift

A transcoder hears rows as they are: its b_enc becomes b_enc - (shift scale) W_enc, and so does its skip's bias.

F features, D dimensions of an input, E of a target.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, assert_never

import numpy as np
import torch
from safetensors.numpy import save
from safetensors.torch import load

from jobs.sae.activations import Activation, BatchTopK, PAnneal, Relu, TopK
from jobs.sae.coder import Coder
from jobs.sae.gated import Gated
from jobs.sae.jump import JumpRelu
from jobs.sae.pursuit import MatchingPursuit, OrthogonalPursuit
from storage.errors import InputError

WEIGHTS, CONFIG = "sae_weights.safetensors", "cfg.json"
Arrays = dict[str, np.ndarray]

_FORMAT = "6.54.12"
"""The SAELens whose format this is; one that finds no version reads `cfg.json` as of before 6.0, without metadata."""


def exported(coder: Coder, about: Mapping[str, Any] | None = None) -> dict[str, bytes]:
    """The files of the folder by name; `about` goes to SAELens's metadata. `InputError` where it has no counterpart."""
    if len(coder.blocks) > 1:
        raise InputError("SAELens has no crosscoders: export a coder of one site")
    architecture, more, own = _counterpart(coder)
    config = {
        "architecture": architecture,
        "d_in": len(coder.shift_D),
        "d_sae": len(coder.b_enc_F),
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": coder.rebuilds_its_input,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {**(about or {}), "sae_lens_version": _FORMAT},
        **more,
    }
    arrays = {name: array.astype(np.float64) for name, array in coder.arrays().items()}
    weights = _own_row(arrays) if coder.rebuilds_its_input else _other_row(arrays)
    if architecture == "gated":
        weights["b_gate"] = weights.pop("b_enc")
    found = {name: np.ascontiguousarray(array, dtype=np.float32) for name, array in {**weights, **own}.items()}
    return {CONFIG: json.dumps(config, indent=2).encode(), WEIGHTS: save(found)}


def _counterpart(coder: Coder) -> tuple[str, dict[str, Any], Arrays]:
    """The architecture that encodes alike, its settings, and its own weights."""
    out = {} if coder.rebuilds_its_input else {"d_out": len(coder.shift_E)}
    skip = "" if coder.W_skip_DE is None else "skip_"
    jump = f"jumprelu_{skip}transcoder" if out else "jumprelu"
    own = {name: tensor.detach().cpu().numpy() for name, tensor in coder.own_activation.state_dict().items()}
    match coder.activation:
        case Relu() | PAnneal():
            return f"{skip}transcoder" if out else "standard", out, {}
        case BatchTopK():
            return jump, out, {"threshold": np.full(len(coder.b_enc_F), max(float(own["threshold"]), 0.0))}
        case JumpRelu():
            return jump, out, {"threshold": np.maximum(own["threshold"], 0)}
        case TopK(k=k) if not out:
            return "topk", {"k": k, "rescale_acts_by_decoder_norm": False}, {}
        case Gated() if not out:
            return "gated", {}, {"r_mag": own["r"], "b_mag": own["b_mag"]}
        case TopK() | Gated() | MatchingPursuit() | OrthogonalPursuit():
            name = type(coder.activation).__name__
            raise InputError(f"SAELens has no {'transcoder' if out else 'coder'} with the codes of {name}")
        case _ as never:
            assert_never(never)


def _own_row(arrays: Mapping[str, np.ndarray]) -> Arrays:
    """Of a coder that rebuilds what it hears."""
    scale_D = arrays["scale"]
    return {
        "W_enc": scale_D[:, None] * arrays.get("W_enc", arrays["W_dec"].T),
        "b_enc": arrays["b_enc"],
        "W_dec": arrays["W_dec"] / scale_D,
        "b_dec": arrays["b_dec"] / scale_D + arrays["shift"],
    }


def _other_row(arrays: Mapping[str, np.ndarray]) -> Arrays:
    """Of a transcoder, with its skip where it has one."""
    scale_D, scale_E = arrays["scale"], arrays["target_scale"]
    centre_D = arrays["shift"] * scale_D
    found = {
        "W_enc": scale_D[:, None] * arrays["W_enc"],
        "b_enc": arrays["b_enc"] - centre_D @ arrays["W_enc"],
        "W_dec": arrays["W_dec"] / scale_E,
        "b_dec": arrays["b_dec"] / scale_E + arrays["target_shift"],
    }
    if "W_skip" in arrays:
        found["W_skip"] = (scale_D[:, None] * arrays["W_skip"] / scale_E).T
        found["b_dec"] -= centre_D @ arrays["W_skip"] / scale_E
    return found


def imported(folder: Path) -> tuple[Arrays, Activation]:
    """Arrays and activation of a `Coder` with a free dictionary that encodes as SAELens's does."""
    try:
        config = json.loads((folder / CONFIG).read_text())
        weights = {name: tensor.float().numpy() for name, tensor in load((folder / WEIGHTS).read_bytes()).items()}
        return _imported(folder, config, weights)
    except KeyError as missing:
        raise InputError(
            f"{folder} has no {missing}, which a coder of its kind has in SAELens: save it again"
        ) from None


def _imported(folder: Path, config: Mapping[str, Any], weights: Arrays) -> tuple[Arrays, Activation]:
    if (found := config.get("normalize_activations") or "none") != "none":
        raise InputError(f"{folder} normalises activations by {found!r}: fold that into its weights with SAELens first")
    if not np.all(weights.get("scaling_factor", 1.0) == 1):
        raise InputError(f"{folder} has a finetuned scaling_factor of features: multiply W_dec by it first")
    architecture = _architecture(config)
    arrays = {name: weights[name] for name in ("W_enc", "W_dec", "b_dec")}
    arrays["b_enc"] = weights["b_gate" if architecture == "gated" else "b_enc"]
    if not config.get("apply_b_dec_to_input", True):  # ours takes b_dec off what the encoder hears
        arrays["b_enc"] = arrays["b_enc"] + weights["b_dec"] @ weights["W_enc"]
    match architecture:
        case "standard":
            return arrays, Relu()
        case "topk":
            return _topk(config, arrays)
        case "jumprelu":
            return arrays | {"activation.threshold": weights["threshold"]}, JumpRelu()
        case "gated":
            moved_F = arrays["b_enc"] - weights["b_gate"]  # our magnitudes take b_enc off the gate
            b_mag_F = weights["b_mag"] + np.exp(weights["r_mag"]) * moved_F
            return arrays | {"activation.r": weights["r_mag"], "activation.b_mag": b_mag_F}, Gated()
        case other:
            raise InputError(
                f"{folder} is a {other!r} of SAELens; of these standard, topk, jumprelu, gated can be read"
            )


def _architecture(config: Mapping[str, Any]) -> str:
    """Before 6.0 it was left out where it was the standard one, and TopK was an activation function of it."""
    if config.get("activation_fn_str", config.get("activation_fn")) == "topk":
        return "topk"
    return str(config.get("architecture", "standard"))


def _topk(config: Mapping[str, Any], arrays: Arrays) -> tuple[Arrays, TopK]:
    if config.get("rescale_acts_by_decoder_norm", False):
        lengths_F = np.linalg.norm(arrays["W_dec"], axis=1)
        arrays |= {"W_enc": arrays["W_enc"] * lengths_F, "b_enc": arrays["b_enc"] * lengths_F}
        arrays["W_dec"] = arrays["W_dec"] / lengths_F[:, None]
    return arrays, TopK(k=int(config["k"] if "k" in config else config["activation_fn_kwargs"]["k"]))


def require_numbers(arrays: Mapping[str, np.ndarray], where: Path) -> None:
    """`InputError` where a weight is no number."""
    bad = [name for name, array in arrays.items() if not bool(torch.from_numpy(array).isfinite().all())]
    if bad:
        raise InputError(f"{where} has NaN or infinite entries in {', '.join(bad)}")
