"""Text that a model goes on with, token by token, each read once: what came before it stays in the attention's cache.

B sequences, T tokens of each, V vocabulary.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from storage.errors import InputError
from workers.model import LM


def check(sequences: Sequence[np.ndarray], n_new: int, context: int) -> Tensor:
    """The token ids, int64 [B, T]; `InputError` where they are of unequal lengths or have no room to go on."""
    lengths = sorted({len(ids) for ids in sequences})
    if len(lengths) != 1 or lengths[0] < 1 or n_new < 1:
        raise InputError(
            f"generate wants sequences of one length and at least one new token; found lengths {lengths} and "
            f"{n_new} new tokens: call it once for each length"
        )
    if context and lengths[0] + n_new > context:
        raise InputError(
            f"{lengths[0]} tokens and {n_new} new ones are more than the {context} that the model reads: ask for fewer"
        )
    return torch.from_numpy(np.stack([np.asarray(ids, np.int64) for ids in sequences]))


def attention_cache(lm: LM) -> DynamicCache:
    """An empty one, of the kinds of layers that this model has."""
    return DynamicCache(config=getattr(lm.module, "config", None))


def require_kept(past: DynamicCache, length: int, source: str) -> None:
    """That the model keeps what it read."""
    if past.get_seq_length() != length:
        raise InputError(
            f"model {source!r} keeps no attention cache that garner knows, so its text would be read from the start "
            "at every token: ask for losses instead of new text"
        )


def pick(logits_BV: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """The next token of each sequence, int64 [B]: the likeliest at temperature 0, else drawn."""
    if temperature <= 0:
        return logits_BV.argmax(-1)
    chances_BV = (logits_BV.double().cpu() / temperature).softmax(-1)
    return torch.multinomial(chances_BV, 1, generator=generator).squeeze(1).to(logits_BV.device)
