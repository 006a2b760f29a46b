"""How well a model predicts held-out documents, beside counts of words and the entropy of the language itself.

B documents of a batch, T tokens of the longest one.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from transformers import PreTrainedModel

SMOOTHING = 5.0
BATCH = 64


def model_nats(model: PreTrainedModel, documents: Sequence[Sequence[int]]) -> float:
    """Mean nats a token, each document on its own, its first token given."""
    ordered = sorted(documents, key=len)
    batches = [ordered[i : i + BATCH] for i in range(0, len(ordered), BATCH)]
    total = sum(_batch_nats(model, batch) for batch in batches)
    return total / n_predicted(documents)


def _batch_nats(model: PreTrainedModel, batch: Sequence[Sequence[int]]) -> float:
    length = max(len(ids) for ids in batch)
    ids_BT = torch.tensor([[*ids, *[0] * (length - len(ids))] for ids in batch])
    targets_BT = torch.tensor([[*ids[1:], *[-100] * (length - len(ids))] for ids in batch])
    with torch.inference_mode():
        logits = model(ids_BT).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets_BT.flatten(), reduction="sum").item()


def n_predicted(documents: Sequence[Sequence[int]]) -> int:
    """Tokens that a model has to predict: all but the first of each document."""
    return sum(len(ids) - 1 for ids in documents)


def unigram_nats(training: Sequence[Sequence[int]], heldout: Sequence[Sequence[int]], n_vocabulary: int) -> float:
    """Mean nats a token under the frequencies of `training`, one added to each."""
    p = _unigram(training, n_vocabulary)
    return -float(np.mean([math.log(p[i]) for ids in heldout for i in ids[1:]]))


def bigram_nats(training: Sequence[Sequence[int]], heldout: Sequence[Sequence[int]], n_vocabulary: int) -> float:
    """Mean nats a token given the token before it: counts of `training`, smoothed by the unigram."""
    p = _unigram(training, n_vocabulary)
    counts = np.zeros((n_vocabulary, n_vocabulary), np.float64)
    for ids in training:
        np.add.at(counts, (ids[:-1], ids[1:]), 1.0)
    smoothed = (counts + SMOOTHING * p) / (counts.sum(1, keepdims=True) + SMOOTHING)
    return -float(np.mean([math.log(smoothed[a, b]) for ids in heldout for a, b in pairwise(ids)]))


def _unigram(training: Sequence[Sequence[int]], n_vocabulary: int) -> np.ndarray:
    counts = np.bincount([i for ids in training for i in ids[1:]], minlength=n_vocabulary) + 1.0
    p: np.ndarray = counts / counts.sum()
    return p
