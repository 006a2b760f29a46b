"""What a feature does to the next token where nothing stands between: its atom against every row of the unembedding.

Directly, that is: later blocks and the final norm are passed over, as by a logit lens. A constant added to all logits
changes nothing, so effects are about their mean over the vocabulary.

M features, D dimensions of a hidden state, V tokens of the vocabulary, R tokens shown of each feature.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from jobs.core.linalg import blocks, centred
from jobs.core.tensors import as_tensor
from jobs.sae.neighbours import greatest
from jobs.sae.recovered import require_vocabulary
from jobs.sae.windows import shown_tokens
from storage.cache import Cache
from storage.errors import InputError
from storage.site import Site

_SITE = Site("unembed")

_RANDOM = 256
"""Random directions behind the null."""


@dataclass(frozen=True)
class Unembedding:
    """The rows that turn a hidden state into logits."""

    table_VD: Tensor
    strings: Sequence[str]
    """The token of each row."""


def require_unembedding(vocabulary: Cache, cache: Cache, d: int) -> None:
    """That rows of width `d` of a cache go with the table of a vocabulary cache."""
    require_vocabulary(cache, vocabulary)
    if (width := vocabulary.site(_SITE).d) != d:
        raise InputError(
            f"unembed names cache {vocabulary.id}, whose rows have {width} numbers; the atoms have {d}: name the "
            "vocabulary cache of the model that the site belongs to"
        )


def unembedding(cache: Cache) -> Unembedding:
    """The table of a vocabulary cache."""
    acts = cache.site(_SITE)
    return Unembedding(as_tensor(acts[:]), shown_tokens(cache.tokens, np.arange(cache.n_rows)))


@dataclass(frozen=True)
class LogitEffects:
    """The tokens that each feature promotes and suppresses most, strongest first."""

    promoted_MR: np.ndarray
    """Rows of the unembedding."""
    promotion_MR: np.ndarray
    """Logits per unit of the feature's code."""
    suppressed_MR: np.ndarray
    suppression_MR: np.ndarray
    peak_M: np.ndarray
    """The strongest promotion, in standard deviations over the vocabulary."""
    null_peak: float
    """Its mean for random directions that are spread as the unembedding is not: equally to all sides."""


def logit_effects(atoms_MD: Tensor, unembedding_VD: Tensor, n: int, seed: int) -> LogitEffects:
    """Effects of `atoms_MD`, in units of the stored rows."""
    n = min(n, len(unembedding_VD))
    table_VD = centred(unembedding_VD.to(atoms_MD.device).float())
    drawn = torch.randn(_RANDOM, table_VD.shape[1], generator=torch.Generator().manual_seed(seed)).to(table_VD)
    promoted, suppressed, peaks = [], [], []
    for part in [*blocks(len(atoms_MD), 4 * len(table_VD))] or [slice(0, 0)]:  # all features may be dead
        effects_BV = atoms_MD[part].float() @ table_VD.T
        promoted.append(greatest(effects_BV, n))
        suppressed.append(greatest(-effects_BV, n))
        peaks.append(_peaks(effects_BV))
    null = torch.cat([_peaks(drawn[part] @ table_VD.T) for part in blocks(_RANDOM, 4 * len(table_VD))])
    (up, promotion), (down, suppression) = (map(torch.cat, zip(*side, strict=True)) for side in (promoted, suppressed))
    return LogitEffects(
        promoted_MR=up.cpu().numpy(),
        promotion_MR=promotion.cpu().numpy(),
        suppressed_MR=down.cpu().numpy(),
        suppression_MR=-suppression.cpu().numpy(),
        peak_M=torch.cat(peaks).cpu().numpy(),
        null_peak=float(null.mean()),
    )


def _peaks(effects_BV: Tensor) -> Tensor:
    return effects_BV.amax(1) / effects_BV.std(1, correction=0).clamp_min(torch.finfo(effects_BV.dtype).tiny)
