"""A map fitted to hidden states of the same text, to judge the others by.

M matched rows.
"""

from dataclasses import dataclass

import numpy as np
import torch

from jobs.alignment.maps import Fitted, Judged, LeastSquares, fit, judge
from jobs.alignment.match import match
from jobs.alignment.moments import Pair, Sums
from jobs.alignment.rows import Rows
from jobs.alignment.study import permuted_sums
from jobs.core.context import Context
from jobs.core.splits import split_documents
from jobs.emb2emb.config import Config, Hidden
from storage.errors import InputError

FEWEST = 32
"""Matched rows that each part of the split must have."""


@dataclass(frozen=True)
class States:
    """The map of states, about their means, and how it does on rows of documents that it did not see."""

    fitted: Fitted
    permuted: Fitted
    held_out: Judged
    null: Judged
    n_rows: int
    notes: tuple[str, ...]

    @property
    def of_vectors(self) -> tuple[Fitted, Fitted]:
        """The same matrices with no means, as vectors are mapped: the fit and its null."""
        fitted, null = (
            Fitted(one.M_ST, torch.zeros_like(one.mean_S), torch.zeros_like(one.mean_T))
            for one in (self.fitted, self.permuted)
        )
        return fitted, null


def states(kind: Hidden, config: Config, ctx: Context) -> States:
    """Least squares from the one site to the other."""
    rows, notes = _rows(kind, config, ctx)
    train, test = (_pair(rows, mask) for mask in (rows.split.train, rows.split.test))
    fitted = fit(LeastSquares(), train, train)
    null_pair = permuted_sums(rows, np.flatnonzero(rows.split.train), config.seed).pair(0, 0)
    null = fit(LeastSquares(), null_pair, null_pair)
    return States(fitted, null, judge(fitted, test), judge(null, test), train.n, notes)


def _rows(kind: Hidden, config: Config, ctx: Context) -> tuple[Rows, tuple[str, ...]]:
    caches = ctx.cache(kind.source), ctx.cache(kind.target)
    source, target = caches[0].site(kind.source_site), caches[1].site(kind.target_site)
    limits, tokens = (len(source), len(target)), (caches[0].tokens, caches[1].tokens)
    matched = match(*tokens, limits=limits, skip=kind.skip, max_rows=kind.max_rows, seed=config.seed)
    documents = split_documents(matched.document_ids_C, validation=0, test=config.held_out, seed=config.seed)
    split = documents.at(matched.document_M)
    if min(split.train.sum(), split.test.sum()) < FEWEST:
        raise InputError(
            f"{kind.source} and {kind.target} have {len(matched.source_M):,} matched rows, of which "
            f"{split.train.sum():,} can be fitted and {split.test.sum():,} are held out; each part needs {FEWEST}: "
            "harvest more documents into both"
        )
    return Rows((source,), (target,), matched, split, ctx.device), matched.notes


def _pair(rows: Rows, mask_M: np.ndarray) -> Pair:
    sums = Sums(*rows.means())
    at_N = np.flatnonzero(mask_M)
    for part in rows.blocks(len(at_N)):
        sums.add(rows.source_rows(at_N[part]), rows.target_rows(at_N[part]))
    return sums.pair(0, 0)
