"""Feature ablation in the live model: what setting one feature to zero does to the next token.

Only the feature's own part is taken out of a row, x - z_f w_f: what the coder does not explain stays. It is taken out
of every row of the sequence, so a row also feels what goes missing before it.

N tokens of a forward pass, K of them with a row in the cache, R rows asked for, M features, F all of them,
D dimensions, V tokens of the vocabulary, A active entries.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from jobs.core.excerpts import Excerpts
from jobs.core.linalg import blocks
from jobs.core.model import Model
from jobs.sae.codes import Codes
from storage.errors import InputError
from storage.site import Site

Encode = Callable[[Tensor], Codes]

_UNEMBED = Site("unembed")


@dataclass(frozen=True)
class Ablated:
    """What each feature's absence changes at the rows asked for that have a next token."""

    rows_R: np.ndarray
    """Numbers in the cache."""
    loss_R: np.ndarray
    """Of the model as it is, in nats."""
    harm_MR: np.ndarray
    """Loss without the feature, less the loss as it is."""
    fires_MR: np.ndarray
    """Whether the feature is active in the row itself."""
    logits_MV: np.ndarray
    """Mean change of the next token's logits over the rows in which it fires; 0 where there is none."""


def ablate(
    model: Model, site: Site, some: Iterable[Excerpts], encode: Encode, atoms_FD: Tensor, features_M: Sequence[int]
) -> Ablated:
    """Take out one feature after the other; `atoms_FD` in units of the stored rows."""
    parts = [_ablate(model, site, one, encode, atoms_FD, features_M) for one in some]
    if not parts:
        raise InputError("there is no row to ablate a feature at: ask for rows of the cache")
    fires_MR = np.concatenate([part.fires_MR for part in parts], axis=1)
    return Ablated(
        rows_R=np.concatenate([part.rows_R for part in parts]),
        loss_R=np.concatenate([part.loss_R for part in parts]),
        harm_MR=np.concatenate([part.harm_MR for part in parts], axis=1),
        fires_MR=fires_MR,
        logits_MV=sum(part.logits_MV for part in parts) / np.maximum(fires_MR.sum(1, keepdims=True), 1),
    )


@torch.no_grad()
def _ablate(
    model: Model, site: Site, some: Excerpts, encode: Encode, atoms_FD: Tensor, features_M: Sequence[int]
) -> Ablated:
    """Of one forward pass; `logits_MV` holds sums."""
    loss_N = model.loss(some.sequences)  # it refuses a model that has none
    x_ND = model.read(some.sequences, [site])[site]
    kept_K = torch.from_numpy(some.kept_R).to(x_ND.device)
    rows_A, features_A, values_A = encode(x_ND[kept_K]).active()
    asked_R = np.flatnonzero(some.asked_R & (some.after_R >= 0))
    clean_RD = _last(model, some, asked_R)
    width = model.logits(clean_RD[:1]).shape[1]
    harm_MR = np.zeros((len(features_M), len(asked_R)), np.float32)
    fires_MR = np.zeros_like(harm_MR, dtype=bool)
    logits_MV = np.zeros((len(features_M), width), np.float32)
    for m, feature in enumerate(features_M):
        mine_A = features_A == feature
        if not mine_A.any():
            continue
        taken_ND = torch.zeros_like(x_ND)
        taken_ND[kept_K[rows_A[mine_A]]] = values_A[mine_A, None] * atoms_FD[feature]
        with model.edit(site, lambda x_ND, taken_ND=taken_ND: x_ND - taken_ND):  # type: ignore[misc]
            changed_RD = _last(model, some, asked_R)
        fires_MR[m] = np.isin(asked_R, rows_A[mine_A].cpu().numpy())
        for part in blocks(len(asked_R), 16 * width):
            clean_BV, changed_BV = model.logits(clean_RD[part]), model.logits(changed_RD[part])
            after_B = torch.from_numpy(some.after_R[asked_R[part]]).to(clean_BV.device)
            harm_MR[m, part] = (_loss(changed_BV, after_B) - _loss(clean_BV, after_B)).cpu().numpy()
            logits_MV[m] += (changed_BV - clean_BV)[torch.from_numpy(fires_MR[m, part])].sum(0).cpu().numpy()
    return Ablated(some.rows_R[asked_R], loss_N[some.kept_R[asked_R]].cpu().numpy(), harm_MR, fires_MR, logits_MV)


def _last(model: Model, some: Excerpts, asked_R: np.ndarray) -> Tensor:
    """What the unembedding reads after the rows asked for: [R, D]."""
    return model.read(some.sequences, [_UNEMBED])[_UNEMBED][some.kept_R[asked_R]]


def _loss(logits_BV: Tensor, after_B: Tensor) -> Tensor:
    return logits_BV.logsumexp(-1) - logits_BV.gather(1, after_B[:, None]).squeeze(1)
