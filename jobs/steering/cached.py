"""Steering worked out from the cache alone: U norm(h + alpha v) of the states that are stored.

At the last block nothing else comes between a state and the logits, so this is what the live model would say. Further
down it is the direct effect of the vector: what it adds to the logits by itself, with all later blocks as they were.

B prompts, V vocabulary, D width of the site.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from jobs.core.tensors import as_tensor
from jobs.sae.recovered import cache_losses
from jobs.steering.config import Config
from jobs.steering.prompts import Prompts
from storage.cache import Cache
from storage.site import Site


@dataclass(frozen=True)
class Stored:
    """The states of the prompts' last tokens, and what turns states into logits."""

    x_BD: Tensor
    unembedded: Callable[[Tensor], Tensor]
    exact: bool
    """Whether the site is the last block's, or what the unembedding reads."""

    @property
    def what(self) -> str:
        """How tables call it."""
        return "cache" if self.exact else "direct effect"

    def logits(self, vector_D: Tensor | None) -> Tensor:
        """float32 [B, V] with alpha v added."""
        return self.unembedded(self.x_BD if vector_D is None else self.x_BD + vector_D.to(self.x_BD))


def stored(config: Config, last: Site, cache: Cache, vocabulary: Cache, prompts: Prompts, device: str) -> Stored:
    """From the cache's rows; `InputError` where no final norm leads from `last` to `unembed`."""
    losses = cache_losses(cache, last, vocabulary, device)
    x_BD = as_tensor(cache.site(config.site)[prompts.rows_B], device)
    return Stored(x_BD, losses.logits, config.site == last)
