"""What one pass over the held-out rows keeps of every feature, for people to read later.

B rows of a batch.
"""

import numpy as np

from jobs.sae.codes import Codes
from jobs.sae.contexts import Bands, Entries, Leaders
from jobs.sae.detectors import Firings
from storage.index import TokenIndex

SAMPLED = 12
"""Rows drawn from each band of a feature's activations: so many that features of one band can be judged, too."""


class Observed:
    """Leaders, samples, histograms and firings; batches may come in any order and size."""

    def __init__(self, tokens: TokenIndex, width: int, n_leaders: int, seed: int) -> None:
        self.tokens, self.width, self.seed = tokens, width, seed
        self.leaders = Leaders(width, n_leaders)
        self.bands = Bands(width, SAMPLED, seed)
        self.firings = Firings(tokens, width, seed)

    def add(self, rows_B: np.ndarray, codes: Codes) -> None:
        """Count in the codes of a batch of held-out rows."""
        found = Entries.of(rows_B, codes)
        self.leaders.take(found)
        self.bands.take(found)
        self.firings.take(rows_B, found)
