"""A copy of a model without its weights: what it reads, how long, and where its sites are."""

import contextlib
import functools
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import MODEL_MAPPING, AutoConfig, AutoModel

from storage.errors import InputError
from workers import checkpoint
from workers.anatomy import Anatomy, study

Kind = Literal["text", "vision"]

_READS: dict[str, Kind] = {"input_ids": "text", "pixel_values": "vision"}


@dataclass(frozen=True)
class Sketch:
    """What a model's architecture alone tells."""

    anatomy: Anatomy
    body: type[nn.Module]
    """The class that is read."""
    parameters: int
    """How many numbers its weights are."""
    widest: int
    """Width of the widest output of a module."""
    kind: Kind
    attention: str
    """The implementation of attention to load it with."""
    vocabulary: int
    """Rows of the input embedding; 0 for vision."""
    context: int
    """Longest sequence in tokens; 0 where there is no limit or none is known."""


def sketch(source: str, revision: str) -> Sketch:
    """The sketch of a resolved model; `InputError` where garner cannot read its kind."""
    return _sketch(source, revision, checkpoint.config_digest(source, revision))


def tower_config(source: str, revision: str) -> Any:
    """The config of the part that is read: of a text and image pair of encoders (CLIP, SigLIP) the image encoder."""
    checkpoint.read_config(source, revision)
    try:
        config = AutoConfig.from_pretrained(source, revision=revision or None, trust_remote_code=False)
        model_class = MODEL_MAPPING[type(config)]
    except (ValueError, KeyError, OSError) as error:
        raise InputError(
            f"model {source!r} is none that transformers knows ({first_line(error)}): "
            "garner reads models of the transformers library, without remote code"
        ) from error
    if config.is_encoder_decoder:
        raise InputError(
            f"model {source!r} is an encoder-decoder ({config.model_type}): "
            "name a decoder, an encoder or a vision encoder"
        )
    config.get_text_config().use_cache = False
    return config.vision_config if hasattr(model_class, "get_text_features") else config


# The digest is in the key because the config of a folder can change.
@functools.lru_cache(maxsize=8)
def _sketch(source: str, revision: str, config_digest: str) -> Sketch:
    config = tower_config(source, revision)
    with torch.device("meta"):
        # Of the ways to run a mixture of experts only this one has shapes that do not depend on the tokens.
        model = AutoModel.from_config(config, experts_implementation="batched_mm").eval()
    kind = _READS.get(model.main_input_name)
    if kind is None:
        raise InputError(f"model {source!r} reads {model.main_input_name}: garner reads token ids and pixels")
    anatomy = _anatomy(source, model, config, kind)
    return Sketch(
        anatomy=anatomy,
        body=type(model),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        widest=max(width for width in anatomy.modules.values() if isinstance(width, int)),
        kind=kind,
        # What transformers takes itself: sdpa where the model's arithmetic allows it, else eager (soft caps, BLOOM).
        attention=model.config._attn_implementation,
        vocabulary=model.get_input_embeddings().weight.shape[0] if kind == "text" else 0,
        context=_context(config, model) if kind == "text" else 0,
    )


def _anatomy(source: str, model: nn.Module, config: Any, kind: Kind) -> Anatomy:
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), torch.device("meta"), _quiet("torch._subclasses.fake_tensor"):
            return study(source, model, _probe(config, kind), config.get_text_config().num_hidden_layers)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"model {source!r} ({config.model_type}) does not run on {kind} alone "
            f"({type(error).__name__}: {first_line(error)}): name a plain decoder, encoder or vision encoder"
        ) from error


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Keeps a logger from printing the traceback of an error that is raised as well."""
    logger = logging.getLogger(name)
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _probe(config: Any, kind: Kind) -> dict[str, Tensor]:
    """Two sequences of five tokens, or two images: shapes then tell which axis is which."""
    if kind == "text":
        return {name: torch.ones(2, 5, dtype=torch.long) for name in ("input_ids", "attention_mask")}
    return {"pixel_values": torch.ones(2, *image_shape(config))}


def image_shape(config: Any) -> tuple[int, int, int]:
    """(channels, height, width) of the images that a vision model was made for."""
    size = config.image_size
    height, width = (size, size) if isinstance(size, int) else size
    return config.num_channels, height, width


def _context(config: Any, model: Any) -> int:
    """Positions that a sequence may use; a table that keeps one for padding (RoBERTa) gives fewer than it has rows."""
    limit = getattr(config.get_text_config(), "max_position_embeddings", None) or 0
    if getattr(config.get_text_config(), "alibi", False):
        return 0
    for module in model.modules():
        is_table = isinstance(module, nn.Embedding) and module.num_embeddings == limit
        if is_table and module.padding_idx is not None and module is not model.get_input_embeddings():
            return int(limit - module.padding_idx - 1)
    return int(limit)


def first_line(error: Exception) -> str:
    """What an error says, in a line."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
