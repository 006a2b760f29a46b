"""A live model as jobs see it: token ids in, rows of sites out, and edits of what stands at a site meanwhile.

Rows are as in a cache: of real tokens only, one sequence after the other. There is no padding to look out for, and no
autograd. N rows of all the sequences given, d width of a site, V vocabulary.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

import numpy as np

from storage.site import Site

if TYPE_CHECKING:
    from torch import Tensor, device

Ids = Sequence[np.ndarray]
"""Token ids of each sequence, integers [length], one at least; together they are one forward pass."""
Edit = Callable[["Tensor"], "Tensor"]
"""What stands at a site, float32 [N, d], to what shall stand there: the same shape."""


class Model(Protocol):
    """A loaded model that reads token ids. Tensors are float32 and on its `device`, also where it spans several."""

    @property
    def device(self) -> "device":
        """Where its inputs go."""
        ...

    def d(self, site: Site) -> int:
        """Width of a site; `InputError` where this model has none."""
        ...

    def read(self, sequences: Ids, sites: Sequence[Site]) -> "Mapping[Site, Tensor]":
        """What stands at each site, [N, d], edits included; nothing after the deepest of them runs."""
        ...

    def edit(self, site: Site, fn: Edit) -> AbstractContextManager[None]:
        """While it is open, every forward pass goes on with `fn` of what stands at `site`; edits may be nested."""
        ...

    def logits(self, x_ND: "Tensor") -> "Tensor":
        """[N, V] of rows of `unembed`, by the model's own head; `InputError` where it has none."""
        ...

    def loss(self, sequences: Ids) -> "Tensor":
        """-log p of the token after each, in nats [N]; NaN at the end of a sequence, where none follows.

        `InputError` where the model has no head, or reads ahead (a masked language model).
        """
        ...

    def generate(self, sequences: Ids, n_new: int, temperature: float = 0.0, seed: int = 0) -> np.ndarray:
        """What the model goes on with, integers [sequences, n_new]: the likeliest token each time, or one drawn.

        The sequences are of one length. Each token is read once, so an edit sees the rows of the sequences first, and
        then the new token's row of each. `InputError` where lengths differ, the model's context ends before, or the
        model has no head or no attention cache.
        """
        ...
