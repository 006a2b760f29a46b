"""The rows of a site on two sides of a split by document: to train on, and to measure on.

N rows, H held-out rows, B rows of a batch, D documents.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from jobs.core.context import Context
from jobs.core.splits import split_documents
from jobs.core.tensors import as_tensor
from jobs.sae.config import Config
from storage.errors import InputError
from storage.index import TokenIndex
from storage.reader import Activations

_MASK_ROWS = 1 << 20


@dataclass(frozen=True)
class Rows:
    """The rows of a site, on two sides of a split by document."""

    acts: Activations
    tokens: TokenIndex
    training_N: np.ndarray
    """Whether each row belongs to a training document."""
    held_H: np.ndarray
    """Numbers of the rows of held-out documents."""
    batch: int
    device: str

    def shuffled(self, seed: int, epochs: int) -> Iterator[Tensor]:
        """Training rows in random order."""
        for x_BD in self.acts.shuffled(batch=self.batch, seed=seed, epochs=epochs, keep=self.training_N):
            assert isinstance(x_BD, np.ndarray)
            yield as_tensor(x_BD, self.device)

    def held(self) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Held-out rows in order: (row numbers, hidden states)."""
        for at in range(0, len(self.held_H), self.batch):
            rows_B = self.held_H[at : at + self.batch]
            yield rows_B, as_tensor(self.acts[rows_B], self.device)


def split_rows(config: Config, ctx: Context) -> Rows:
    """The site's rows by side; a site that cannot be trained on is refused."""
    cache = ctx.cache(config.cache)
    acts, tokens = cache.site(config.site), cache.tokens
    if acts.moments.nonfinite:
        raise InputError(
            f"site {config.site} of cache {cache.id} has {acts.moments.nonfinite} rows with NaN or infinite entries: "
            "an SAE wants finite rows, so harvest again in a wider number type"
        )
    held_D = split_documents(tokens.document_ids, validation=0, test=config.held_out, seed=config.seed).test
    spans = [slice(at, min(at + _MASK_ROWS, len(acts))) for at in range(0, len(acts), _MASK_ROWS)]
    held_N = np.concatenate([held_D[tokens.documents(span)] for span in spans] or [np.zeros(0, bool)])
    n_held = int(held_N.sum())
    if min(n_held, len(held_N) - n_held) < 2:
        raise InputError(
            f"held_out = {config.held_out} of cache {cache.id} leaves {len(held_N) - n_held} rows to train on and "
            f"{n_held} to measure on: harvest more documents, or change held_out or seed"
        )
    return Rows(acts, tokens, ~held_N, np.flatnonzero(held_N), config.batch, ctx.device)
