"""A model over several GPUs of one process: accelerate places its parts, and carries what passes between them."""

import importlib.util
from collections.abc import Mapping
from typing import Any

import torch

from storage.errors import InputError


def options() -> dict[str, Any]:
    """What `from_pretrained` is told, to place a model over all the GPUs that the process sees."""
    if importlib.util.find_spec("accelerate") is None:
        raise InputError(
            "a model that spans several GPUs needs the package accelerate, which is not installed here: "
            "pip install 'accelerate>=1.15' on every machine, or give each worker one GPU"
        )
    return {"device_map": "auto"}


def check(source: str, placed: Mapping[str, Any]) -> None:
    """`InputError` where parts of the model stayed outside the GPUs, which would take many times as long."""
    outside = [path for path, device in placed.items() if str(device) in ("cpu", "disk")]
    if outside and len(outside) < len(placed):
        raise InputError(
            f"model {source!r} does not fit the {torch.cuda.device_count()} GPUs that this worker sees: {len(outside)} "
            f"of its {len(placed)} parts, {outside[0]!r} the first, would stay outside; give each worker more GPUs, or "
            'load the model in fewer bits (dtype = "bfloat16")'
        )


def first_device(module: Any) -> torch.device:
    """Where the model's inputs are embedded."""
    first: torch.nn.Parameter = next(module.get_input_embeddings().parameters())
    return first.device
