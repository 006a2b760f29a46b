"""Loss recovered: how much of what a model loses where a site is wiped out comes back with a coder's rows put there.

    (H_zero - H_sae) / (H_zero - H_orig)

H is the mean -log p of the token after each row, in nats, with the site's rows set to zero, to what the coder makes of
them, or left. Beside zero, which a model never sees, the mean row is the second reference. Losses come from the cache
alone at its last sites, where only the final norm and the unembedding are left, or at any site from the live model.

R rows of a forward pass, D dimensions, V tokens of the vocabulary.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from jobs.core.excerpts import Excerpts
from jobs.core.linalg import blocks
from jobs.core.model import Edit, Model
from jobs.core.tensors import as_tensor
from jobs.sae.final_norm import FinalNorm, fit, rounding
from storage.cache import Cache
from storage.errors import InputError
from storage.reader import Activations
from storage.site import Site

Losses = Callable[[Excerpts, Edit], Tensor]
"""The loss at every row [R] with what the edit makes of the rows in their place; void where no token follows."""

_UNEMBED = Site("unembed")
_CHECKED_ROWS = 512
_CLOSE = 1e-3
"""Nats by which the log-sum-exp may miss what was harvested of rows in float32."""


@dataclass(frozen=True)
class Recovered:
    """Mean loss of the token after each row asked for, in nats per token."""

    tokens: int
    """That it is the mean of."""
    original: float
    rebuilt: float
    """With what the coder makes of the rows in their place."""
    zero: float
    """With zeros in their place."""
    mean: float
    """With the mean row in their place."""

    @property
    def share(self) -> float:
        """Of what zeros cost, the part that the coder gives back: 1 where it costs nothing."""
        return _share(self.zero, self)

    @property
    def share_of_mean(self) -> float:
        """Of what the mean row costs, the part that the coder gives back."""
        return _share(self.mean, self)


def recovered(some: Iterable[Excerpts], losses: Losses, rebuild: Edit, mean_D: Tensor) -> Recovered:
    """The four losses over the rows asked for that have a next token."""
    put: Mapping[str, Edit] = {
        "original": lambda x_RD: x_RD,
        "rebuilt": rebuild,
        "zero": torch.zeros_like,
        "mean": lambda x_RD: mean_D.to(x_RD).expand_as(x_RD),
    }
    sums, tokens = dict.fromkeys(put, 0.0), 0
    for one in some:
        counted_R = torch.from_numpy(one.asked_R & (one.after_R >= 0))
        tokens += int(counted_R.sum())
        for name, fn in put.items():
            sums[name] += float(losses(one, fn).cpu()[counted_R].double().sum())
    if not tokens:
        raise InputError("none of the rows has a next token to predict: ask for rows inside of sequences")
    return Recovered(tokens, **{name: sums[name] / tokens for name in put})


@dataclass(frozen=True)
class CacheLosses:
    """Losses from the cache: a site's rows, the final norm where it is still to come, and the unembedding's table."""

    acts: Activations
    norm: FinalNorm | None
    """None at `unembed`."""
    table_VD: Tensor

    def __call__(self, some: Excerpts, fn: Edit) -> Tensor:
        """As `Losses` says."""
        device = self.table_VD.device
        x_RD = fn(as_tensor(self.acts[some.rows_R], str(device)))
        after_R = torch.from_numpy(some.after_R).to(device).clamp_min(0)
        loss_R = x_RD.new_empty(len(x_RD))
        for part in blocks(len(x_RD), 8 * len(self.table_VD)):
            logits_BV = self.logits(x_RD[part])
            loss_R[part] = logits_BV.logsumexp(-1) - logits_BV.gather(1, after_R[part, None]).squeeze(1)
        return loss_R

    def logits(self, x_BD: Tensor) -> Tensor:
        """[B, V] of rows of the site."""
        return (x_BD if self.norm is None else self.norm(x_BD)) @ self.table_VD.T


@dataclass(frozen=True)
class LiveLosses:
    """Losses from the live model: its own forward, with the excerpts' rows exchanged at a site."""

    model: Model
    site: Site

    def __call__(self, some: Excerpts, fn: Edit) -> Tensor:
        """As `Losses` says. Tokens without a row in the cache stay as they are."""

        def exchanged(x_ND: Tensor) -> Tensor:
            kept_R = torch.from_numpy(some.kept_R).to(x_ND.device)
            return x_ND.index_copy(0, kept_R, fn(x_ND[kept_R]).to(x_ND))

        with self.model.edit(self.site, exchanged):
            return self.model.loss(some.sequences)[some.kept_R]


def cache_losses(cache: Cache, site: Site, vocabulary: Cache, device: str) -> CacheLosses:
    """Losses at `unembed`, or at the last block of a cache that holds `unembed` as well.

    `vocabulary` is the cache of the same model's vocabulary, whose `unembed` rows are the table. That the head does no
    more than multiply (no bias, cap or scale) and has no row beyond the tokenizer's is checked where the cache holds
    logits, for they bring the log-sum-exp of all; where it holds none, it is the user's to know.
    """
    require_vocabulary(cache, vocabulary)
    table_VD = as_tensor(vocabulary.site(_UNEMBED)[:], device)
    acts = cache.site(site)
    norm = None if site == _UNEMBED else fit(acts, cache.site(_UNEMBED), device)
    found = CacheLosses(acts, norm, table_VD)
    for other in cache.sites:
        if other.kind == "logits":
            _require_logsumexp(found, cache.site(other), vocabulary)
    return found


def require_vocabulary(cache: Cache, vocabulary: Cache) -> None:
    """That a cache holds the whole vocabulary, in order, of the model that made another."""
    one, other = (held.record.identity.model for held in (cache, vocabulary))
    if one.weights != other.weights:
        raise InputError(
            f"cache {vocabulary.id} is of another model ({other.name}) than {cache.id} ({one.name}): name the "
            "vocabulary cache of the same model"
        )
    ids = vocabulary.tokens.ids(slice(None))
    if not np.array_equal(ids, np.arange(len(ids))):
        raise InputError(
            f"cache {vocabulary.id} does not hold every token of a vocabulary once and in order: a loss needs all of "
            "them; name a cache of a corpus with vocabulary = true"
        )


def _require_logsumexp(losses: CacheLosses, harvested: Activations, vocabulary: Cache) -> None:
    n = min(len(harvested), len(losses.acts))
    rows = np.linspace(0, n - 1, min(n, _CHECKED_ROWS)).astype(np.int64)
    x_RD, wanted_RK = (as_tensor(acts[rows], str(losses.table_VD.device)) for acts in (losses.acts, harvested))
    found_R = torch.cat(
        [losses.logits(x_RD[part]).logsumexp(-1) for part in blocks(len(rows), 8 * len(losses.table_VD))]
    )
    missed = float((found_R - wanted_RK[:, -1]).abs().max())
    allowed = max(_CLOSE, 40 * max(rounding(acts) for acts in (losses.acts, vocabulary.site(_UNEMBED))))
    if not missed <= allowed:
        raise InputError(
            f"the table of cache {vocabulary.id} does not give the harvested {harvested.site}: the log-sum-exp is off "
            f"by {missed:.2g} nats. The model's head has a bias, a cap, a scale or further rows: take the loss from "
            "the live model"
        )


def _share(reference: float, found: Recovered) -> float:
    lost = reference - found.original
    return (reference - found.rebuilt) / lost if lost else float("nan")
