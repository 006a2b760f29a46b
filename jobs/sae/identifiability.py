"""Soft identifiability: can one feature and one threshold tell whether an object is in the mixture?

N examples, F features, C objects, P thresholds, E examples of the objects (one line per object that an example has).

acc_j = max over features i and thresholds of P((z_i > threshold) = y_j), thresholds at the 1st to 100th percentile of
z_i, averaged over the objects (Fel et al. 2025, 2502.12892). Answering with the majority reaches max(q, 1 - q) for an
object that a share q of the examples has, .56 to .80 in the paper's sets, where K-means scores .77: so that line and
the score above it are given. Feature and threshold are chosen on the very examples that are scored, as the paper does,
and beside it on others.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from jobs.core.linalg import blocks
from jobs.sae.codes import Codes
from storage.value import Value

_PERCENTILES_P = np.arange(1, 101)


class Examples(NamedTuple):
    """Codes of examples and what is in them."""

    z_NF: Tensor
    has_NC: Tensor
    """Whether each example has each object: bool."""


class Identifiability(Value):
    """Mean accuracy over the objects, and the lines to read it against."""

    fit_on_test: float
    """Feature and threshold chosen on the examples scored: the paper's number."""
    fit_on_train: float
    """Chosen on other examples."""
    chance: float
    """Answering every example with the majority."""
    null: float
    """`fit_on_test` with the objects of the examples permuted: what choosing among so many features gains by luck."""

    @property
    def corrected(self) -> float:
        """(acc - chance) / (1 - chance) of `fit_on_test`: 0 is the majority, 1 is perfect."""
        return _above(self.fit_on_test, self.chance)

    @property
    def corrected_train(self) -> float:
        """The same of `fit_on_train`."""
        return _above(self.fit_on_train, self.chance)


def soft_identifiability(train: Examples, test: Examples, seed: int) -> Identifiability:
    """Of one set of objects; average over sets."""
    order_N = torch.randperm(len(test.has_NC), generator=torch.Generator().manual_seed(seed))
    share_C = test.has_NC.double().mean(0)
    return Identifiability(
        fit_on_test=float(_best(test).accuracy_C.mean()),
        fit_on_train=float(_accuracy(_best(train), test).mean()),
        chance=float(torch.maximum(share_C, 1 - share_C).mean()),
        null=float(_best(Examples(test.z_NF, test.has_NC[order_N])).accuracy_C.mean()),
    )


def stacked(batches: Iterable[Codes], rows_B: Iterable[int], width: int) -> Tensor:
    """Codes of several batches, of that many rows each, as one dense matrix [N, F]."""
    parts = []
    for codes, n in zip(batches, rows_B, strict=True):
        rows_A, features_A, values_A = codes.active()
        parts.append(values_A.new_zeros(n, width).index_put((rows_A, features_A), values_A))
    return torch.cat(parts)


class _Teller(NamedTuple):
    """For each object, the feature and threshold that tell it best; of equals the lower feature, then threshold."""

    feature_C: np.ndarray
    threshold_C: np.ndarray
    accuracy_C: np.ndarray


def _best(examples: Examples) -> _Teller:
    """Chosen on the examples, a block of features at a time."""
    has_NC = examples.has_NC.cpu().numpy()
    n, n_objects = has_NC.shape
    best = _Teller(np.zeros(n_objects, np.int64), np.zeros(n_objects), np.full(n_objects, -1.0))
    for part in blocks(examples.z_NF.shape[1], 40 * n + 16 * 101 * n_objects):
        z_NF = examples.z_NF[:, part].detach().cpu().numpy()
        thresholds_PF = np.percentile(z_NF, _PERCENTILES_P, axis=0).astype(z_NF.dtype)
        accuracy_CA = _accuracies(z_NF, thresholds_PF, has_NC).reshape(n_objects, -1)
        at_C = accuracy_CA.argmax(axis=1)
        accuracy_C = accuracy_CA[np.arange(n_objects), at_C]
        feature_C, percentile_C = np.divmod(at_C, len(_PERCENTILES_P))
        better_C = accuracy_C > best.accuracy_C
        best.feature_C[better_C] = feature_C[better_C] + part.start
        best.threshold_C[better_C] = thresholds_PF[percentile_C, feature_C][better_C]
        best.accuracy_C[better_C] = accuracy_C[better_C]
    return best


def _accuracies(z_NF: np.ndarray, thresholds_PF: np.ndarray, has_NC: np.ndarray) -> np.ndarray:
    """P((z_f > threshold) = has_c) for every object, feature and threshold: [C, F, P].

    Every code is put in a bin once, by how many thresholds lie below it; what passes a threshold is then a sum of bins.
    """
    (n, width), n_bins = z_NF.shape, len(thresholds_PF) + 1
    bins_NF = _below(thresholds_PF, z_NF) + np.arange(width) * n_bins

    def passing(rows_N: np.ndarray) -> np.ndarray:
        bins_FP = np.bincount(bins_NF[rows_N].ravel(), minlength=width * n_bins).reshape(width, n_bins)
        return bins_FP[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:]

    all_FP = passing(np.ones(n, bool))
    hits_CFP = np.stack([passing(has_N) for has_N in has_NC.T])
    absent_C = (n - has_NC.sum(axis=0))[:, None, None]
    correct_CFP: np.ndarray = (hits_CFP + absent_C - (all_FP - hits_CFP)) / n
    return correct_CFP


def _below(thresholds_PF: np.ndarray, z_NF: np.ndarray) -> np.ndarray:
    """How many of its feature's thresholds each code is greater than: [N, F]."""
    thresholds_FP = torch.from_numpy(np.ascontiguousarray(thresholds_PF.T))
    z_FN = torch.from_numpy(np.ascontiguousarray(z_NF.T))
    below_NF: np.ndarray = torch.searchsorted(thresholds_FP, z_FN).numpy().T
    return below_NF


def _accuracy(teller: _Teller, examples: Examples) -> np.ndarray:
    """Of features and thresholds that were chosen elsewhere: [C]."""
    z_NC = examples.z_NF[:, torch.from_numpy(teller.feature_C).to(examples.z_NF.device)].detach().cpu().numpy()
    says_NC = z_NC > teller.threshold_C.astype(z_NC.dtype)
    accuracy_C: np.ndarray = (says_NC == examples.has_NC.cpu().numpy()).mean(axis=0)
    return accuracy_C


def _above(accuracy: float, chance: float) -> float:
    return (accuracy - chance) / (1 - chance) if chance < 1 else 0.0
