"""Rows off the model: rounded to the stored type, brought to the host, tested, and handed to their writers.

N: rows, d: width of a site.
"""

from collections.abc import Sequence
from typing import NamedTuple, NoReturn

import ml_dtypes
import numpy as np
import torch
from torch import Tensor

from storage.dtype import DtypeName, largest, logical
from storage.errors import RunError
from storage.segment import Segment
from storage.sequences import Sequence as TokenSequence
from storage.site import Site, stored_dtype
from storage.writer import UnitWriter
from workers.feed import document
from workers.timings import Clock


class Rounded(NamedTuple):
    """Rows of one site in its logical dtype, still where the model put them."""

    kept_Nd: Tensor
    finite: Tensor
    """Whether all of `kept_Nd` is; a number of the device, which on CUDA is not yet known."""
    read_Nd: Tensor
    """As they were read, where they may be asked for again; `kept_Nd` once all are known to be finite."""


class Taken(NamedTuple):
    """A batch, and the rows read off the model for it."""

    batch: Sequence[TokenSequence]
    rows: dict[Site, Rounded]
    """In the order of the batch; emptied as they are stored."""


def rounded(site: Site, x_Nd: Tensor, dtype: DtypeName) -> Rounded:
    """The rows as they will be stored.

    The thread of the forward does this: on the CPU the threads that torch has for it are warm, and a second set of them
    would only be in their way; on CUDA it is queued behind the forward, and nobody waits for it.
    """
    kept_Nd = x_Nd.to(getattr(torch, logical(stored_dtype(site, dtype)).name))
    finite = torch.isfinite(kept_Nd).all()
    return Rounded(kept_Nd, finite, x_Nd if finite.is_cuda or not finite else kept_Nd)


class Shelf:
    """Takes what was read off the model to the writers of one unit; in one thread at a time."""

    def __init__(
        self, segment: Segment, dtype: DtypeName, nonfinite: bool, writers: Sequence[UnitWriter], clock: Clock
    ) -> None:
        """With `nonfinite`, rows with NaN or infinity are kept instead of ending the run."""
        self._segment, self._dtype, self._nonfinite = segment, dtype, nonfinite
        self._writers, self._clock = writers, clock

    def __call__(self, taken: Taken) -> None:
        """Put the rows of a batch where they belong."""
        edges = np.cumsum([sequence.n_rows for sequence in taken.batch])[:-1]
        for writer in self._writers:
            with self._clock.counting("copy"):
                x_Nd = self._copied(writer.site, taken.rows.pop(writer.site), taken.batch)
            for sequence, rows in zip(taken.batch, np.split(x_Nd, edges), strict=True):
                writer.put(sequence.start, rows)

    def _copied(self, site: Site, rows: Rounded, batch: Sequence[TokenSequence]) -> np.ndarray:
        """Rows in the site's logical dtype as NumPy; the only way from torch to storage."""
        if not self._nonfinite and not bool(rows.finite):
            self._refuse(site, rows.read_Nd, rows.kept_Nd, batch)
        kept_Nd = rows.kept_Nd.cpu()
        if kept_Nd.dtype == torch.bfloat16:
            return kept_Nd.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return kept_Nd.numpy()

    def _refuse(self, site: Site, x_Nd: Tensor, kept_Nd: Tensor, batch: Sequence[TokenSequence]) -> NoReturn:
        """Name the first document whose row is not finite, and say what to do."""
        bad = int((~torch.isfinite(kept_Nd).all(dim=1)).nonzero()[0])
        rows = np.concatenate([np.arange(s.start, s.start + s.n_rows) for s in batch])
        key = document(self._segment, int(rows[bad]))
        if torch.isfinite(x_Nd[bad]).all():
            top = float(x_Nd[bad].abs().max())
            raise RunError(
                f"site {site}, document {key!r}: {top:.3g} is over {self._dtype}'s largest number "
                f'{largest(self._dtype):.3g}; set dtype = "bfloat16" for this cache'
            )
        raise RunError(
            f"site {site}, document {key!r}: the model gave NaN or infinity; mend the model or the document, "
            "or set nonfinite = true for this cache to keep such rows"
        )
