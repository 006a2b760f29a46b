"""Images for vision models: decoded, through the model's own processor, counted in patches."""

import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from PIL import Image, ImageOps
from torch import Tensor
from transformers import AutoConfig, AutoImageProcessor, AutoModel

from storage.errors import InputError, RunError

_PROBES = ((48, 80), (100, 64))
"""Width and height of two images; a processor that keeps images' own sizes can't stack them."""


class Grid(NamedTuple):
    """The rows that a vision model gives for one image."""

    n_patches: int
    n_special: int
    """Rows before the patches: CLS and registers."""


def load_processor(source: str, revision: str | None) -> Any:
    """The model's image processor, always on PIL: with torchvision at hand it would give slightly other numbers."""
    try:
        return AutoImageProcessor.from_pretrained(source, revision=revision or None, backend="pil")
    except (OSError, ValueError) as error:
        said = str(error).strip().splitlines()[0]
        raise InputError(
            f"model {source!r} has no image processor ({said}): images need a vision model, saved with its processor"
        ) from error


def picture(data: bytes, key: str) -> Image.Image:
    """The decoded image in RGB, turned the way its camera meant it; `key` names the document."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise RunError(
            f"document {key}: its {len(data)} bytes are not a readable image ({error}). Replace it or leave it out"
        ) from error


def pixels(processor: Any, images: Sequence[bytes]) -> Tensor:
    """Pixel values [n, channels, height, width] of encoded images."""
    return _pixels(processor, [picture(data, f"{n} of a batch") for n, data in enumerate(images)])


def grid(source: str, revision: str | None, processor: Any) -> Grid:
    """How many rows the model gives for an image, from a forward pass that computes shapes alone."""
    config = AutoConfig.from_pretrained(source, revision=revision or None)
    config = getattr(config, "vision_config", config)
    patch = getattr(config, "patch_size", None)
    if not isinstance(patch, int):
        raise InputError(f"model {source!r} has no patch_size: images need a vision model with one row per patch")
    shape = _pixels(processor, [Image.new("RGB", size) for size in _PROBES]).shape[1:]
    with torch.device("meta"), torch.no_grad():
        model = AutoModel.from_config(config)
        n_rows = model(pixel_values=torch.zeros(1, *shape)).last_hidden_state.shape[1]
    n_patches = (shape[1] // patch) * (shape[2] // patch)
    if n_rows < n_patches:
        raise InputError(
            f"model {source!r} gives {n_rows} rows for {n_patches} patches: images need a model with one row per patch"
        )
    return Grid(n_patches, n_rows - n_patches)


def _pixels(processor: Any, pictures: list[Image.Image]) -> Tensor:
    try:
        values: Tensor = processor(images=pictures, return_tensors="pt")["pixel_values"]
    except ValueError as error:
        raise InputError(
            f"{type(processor).__name__} gives no tensor for images of several sizes ({error}): "
            "give the processor a fixed size"
        ) from error
    return values
