"""Coders as SAELens keeps them: a folder of `cfg.json` and `sae_weights.safetensors`, written and read.

Its coders take rows as they are and know neither shift nor scale: both are folded into weights and biases, in float64:

    pre = x (scale W_enc) + b_enc - (shift scale + b_dec) W_enc        x_hat = z (W_dec / scale) + b_dec / scale + shift

F features, D dimensions of an input, E of a target.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, assert_never

import numpy as np
import torch
from safetensors.numpy import load, save

from jobs.sae.activations import Activation, BatchTopK, PAnneal, Relu, TopK
from jobs.sae.coder import Coder
from jobs.sae.gated import Gated
from jobs.sae.jump import JumpRelu
from jobs.sae.pursuit import MatchingPursuit, OrthogonalPursuit
from storage.errors import InputError

WEIGHTS, CONFIG = "sae_weights.safetensors", "cfg.json"
Arrays = dict[str, np.ndarray]


def exported(coder: Coder, about: Mapping[str, Any] | None = None) -> dict[str, bytes]:
    """The files of the folder by name; `about` goes to SAELens's metadata. `InputError` where it has no counterpart."""
    if len(coder.blocks) > 1:
        raise InputError("SAELens has no crosscoders: export a coder of one site")
    if coder.W_skip_DE is not None:
        raise InputError("SAELens's skip transcoder has no normalisation to fold into: train without skip")
    architecture, more, own = _counterpart(coder)
    weights = _folded(coder) | {name: array.astype(np.float32) for name, array in own.items()}
    if architecture == "gated":
        weights = _gated(coder, weights)
    config = {
        "architecture": architecture,
        "d_in": len(coder.shift_D),
        "d_sae": len(coder.b_enc_F),
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": dict(about or {}),
        **more,
    }
    return {CONFIG: json.dumps(config, indent=2).encode(), WEIGHTS: save(weights)}


def _counterpart(coder: Coder) -> tuple[str, dict[str, Any], Arrays]:
    """The architecture that encodes alike, its settings, and its own weights."""
    out = {} if coder.rebuilds_its_input else {"d_out": len(coder.shift_E)}
    suffix, width = "_transcoder" if out else "", len(coder.b_enc_F)
    own = coder.own_activation
    match coder.activation:
        case Relu() | PAnneal():
            return "transcoder" if out else "standard", out, {}
        case BatchTopK():
            threshold = float(own["threshold"].clamp_min(0))
            return f"jumprelu{suffix}", out, {"threshold": np.full(width, threshold)}
        case JumpRelu():
            return f"jumprelu{suffix}", out, {"threshold": own["threshold"].detach().clamp_min(0).cpu().numpy()}
        case TopK(k=k) if not out:
            return "topk", {"k": k, "rescale_acts_by_decoder_norm": False}, {}
        case Gated() if not out:
            return "gated", {}, {}
        case TopK() | Gated() | MatchingPursuit() | OrthogonalPursuit():
            name = type(coder.activation).__name__
            raise InputError(f"SAELens has no {'transcoder' if out else 'coder'} with the codes of {name}")
        case _ as never:
            assert_never(never)


def _folded(coder: Coder) -> Arrays:
    """`W_enc`, `b_enc`, `W_dec` and `b_dec` for rows as they are stored."""
    arrays = {name: array.astype(np.float64) for name, array in coder.arrays().items()}
    W_enc = arrays.get("W_enc", arrays["W_dec"].T)
    target = "" if coder.rebuilds_its_input else "target_"
    scale_E, shift_E = arrays[f"{target}scale"], arrays[f"{target}shift"]
    folded = {
        "W_enc": arrays["scale"][:, None] * W_enc,
        "b_enc": arrays["b_enc"] - _centre(coder, arrays) @ W_enc,
        "W_dec": arrays["W_dec"] / scale_E,
        "b_dec": arrays["b_dec"] / scale_E + shift_E,
    }
    return {name: np.ascontiguousarray(array, dtype=np.float32) for name, array in folded.items()}


def _centre(coder: Coder, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """The normalised row that the encoder hears nothing of."""
    centre_D: np.ndarray = arrays["shift"] * arrays["scale"]
    return centre_D + arrays["b_dec"] if coder.rebuilds_its_input else centre_D


def _gated(coder: Coder, weights: Arrays) -> Arrays:
    """Both paths with the encoder's centre folded in; ours share b_enc, which is the gate's."""
    r, b_mag = (coder.own_activation[name].detach().cpu().double().numpy() for name in ("r", "b_mag"))
    b_enc = coder.b_enc_F.detach().cpu().double().numpy()
    own = {"r_mag": r, "b_gate": weights["b_enc"], "b_mag": b_mag + np.exp(r) * (weights["b_enc"] - b_enc)}
    kept = {name: array for name, array in weights.items() if name != "b_enc"}
    return kept | {name: array.astype(np.float32) for name, array in own.items()}


def imported(folder: Path) -> tuple[Arrays, Activation]:
    """Arrays and activation of a `Coder` with a free dictionary that encodes as SAELens's does."""
    config = json.loads((folder / CONFIG).read_text())
    weights = {name: array.astype(np.float32) for name, array in load((folder / WEIGHTS).read_bytes()).items()}
    if (found := config.get("normalize_activations", "none")) != "none":
        raise InputError(f"{folder} normalises activations by {found!r}: fold that into its weights with SAELens first")
    arrays = {name: weights[name] for name in ("W_enc", "W_dec", "b_dec")}
    arrays["b_enc"] = weights["b_gate" if config["architecture"] == "gated" else "b_enc"]
    if not config.get("apply_b_dec_to_input", True):  # ours takes b_dec off what the encoder hears
        arrays["b_enc"] = arrays["b_enc"] + weights["b_dec"] @ weights["W_enc"]
    return _own(folder, config, weights, arrays)


def _own(folder: Path, config: Mapping[str, Any], weights: Arrays, arrays: Arrays) -> tuple[Arrays, Activation]:
    match config["architecture"]:
        case "standard":
            return arrays, Relu()
        case "topk":
            if config.get("rescale_acts_by_decoder_norm", False):
                lengths_F = np.linalg.norm(weights["W_dec"], axis=1)
                arrays |= {"W_enc": arrays["W_enc"] * lengths_F, "b_enc": arrays["b_enc"] * lengths_F}
                arrays["W_dec"] = arrays["W_dec"] / lengths_F[:, None]
            return arrays, TopK(k=int(config["k"]))
        case "jumprelu":
            return arrays | {"activation.threshold": weights["threshold"]}, JumpRelu()
        case "gated":
            moved = arrays["b_enc"] - weights["b_gate"]  # our magnitudes take b_enc off the gate
            b_mag = weights["b_mag"] + np.exp(weights["r_mag"]) * moved
            return arrays | {"activation.r": weights["r_mag"], "activation.b_mag": b_mag}, Gated()
        case other:
            raise InputError(
                f"{folder} is a {other!r} of SAELens; of these standard, topk, jumprelu, gated can be read"
            )


def require_numbers(arrays: Mapping[str, np.ndarray], where: Path) -> None:
    """`InputError` where a weight is no number."""
    bad = [name for name, array in arrays.items() if not bool(torch.from_numpy(array).isfinite().all())]
    if bad:
        raise InputError(f"{where} has NaN or infinite entries in {', '.join(bad)}")
