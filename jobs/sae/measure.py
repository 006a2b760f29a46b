"""A trained coder on the held-out rows: its numbers, its baselines, and what its features speak for.

B rows of a batch, F features, D dimensions of a hidden state, R directions.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch

from jobs.core.context import Metric
from jobs.sae.anatomy import Anatomy
from jobs.sae.coder import Coder
from jobs.sae.config import Config
from jobs.sae.features import DocumentMeans, Purity, Telling, tell_labels, token_purity
from jobs.sae.knowledge import Knowledge, knowledge
from jobs.sae.metrics import Tally, baselines, linear_fvu, principal_directions
from jobs.sae.observed import Observed
from jobs.sae.parts import Batch
from jobs.sae.pooled import StateMeans
from jobs.sae.rows import Rows

PCA_ROWS = 65_536
"""Training rows that PCA is fitted to, at most."""


@dataclass(frozen=True)
class Found:
    """Everything measured on held-out rows."""

    tally: Tally
    observed: Observed
    """Where each feature speaks, and how loudly."""
    pure: Purity
    tellings: tuple[Telling, ...]
    k: int
    """Numbers per row that the baselines get: L0, rounded."""
    random_fvu: float
    pca_fvu: float
    linear_fvu: float | None
    """Of a linear map from input to target; none where they are the same."""
    knowledge: Knowledge
    """What features know of labels and of spelling."""
    shape: tuple[Metric, ...]
    """Of the dictionary, and of how its features go together."""
    remarks: tuple[str, ...]


@torch.no_grad()
def measure(config: Config, coder: Coder, rows: Rows) -> Found:
    """One pass over the held-out rows for the coder, one for its baselines."""
    mean_E = torch.tensor(rows.target_mean_E, dtype=torch.float32, device=rows.device)
    tally = Tally(coder, mean_E)
    observed = Observed(rows.tokens, config.width, config.n_examples, config.seed)
    documents = np.unique(rows.tokens.documents(rows.held_H))
    means = DocumentMeans(documents, rows.tokens.n_documents, config.width)
    states = StateMeans(means.documents_N, rows.tokens.n_documents, len(mean_E))
    anatomy = Anatomy(coder, config.seed + 1)
    for rows_B, batch in rows.held():
        codes = coder.encode(batch.x_BD)
        tally.add(batch, codes)
        observed.add(rows_B, codes)
        means.add(rows.tokens.documents(rows_B), codes)
        states.add(rows.tokens.documents(rows_B), batch.y_BE)
        anatomy.add(coder.wanted(batch.x_BD, batch.y_BE), codes)
    k = max(1, round(tally.l0))
    directions_RE = principal_directions((batch.y_BE for batch in _sample(config, rows)), mean_E)[:k]
    held = (batch.y_BE for _, batch in rows.held())
    random_fvu, pca_fvu = baselines(held, config.width, directions_RE, mean_E, k, config.seed + 1)
    linear = linear_fvu(_sample(config, rows), (batch for _, batch in rows.held())) if rows.targets else None
    pure = token_purity(observed.leaders, rows.tokens, rows.held_H, config.seed)
    tellings = tell_labels(means, rows.tokens, config.seed)
    known = knowledge(coder, rows, tally, states, means, config.seed)
    shape, remarks = anatomy.metrics(), anatomy.remarks
    return Found(tally, observed, pure, tellings, k, random_fvu, pca_fvu, linear, known, shape, remarks)


def _sample(config: Config, rows: Rows) -> Iterator[Batch]:
    """The training rows that baselines are fitted to."""
    return islice(rows.shuffled(config.seed, 1), math.ceil(PCA_ROWS / rows.batch))
