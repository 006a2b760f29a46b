"""How good a probe is: accuracy, ranking, calibration, R2, and intervals over documents.

N examples, C classes, M documents, Q bins.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from scipy.stats import rankdata

_REPLICATES = 1000
"""Bootstrap replicates."""


class Reliability(NamedTuple):
    """Examples binned by the confidence of the answer: how sure the probe was, and how often it was right."""

    confidence_Q: np.ndarray
    accuracy_Q: np.ndarray
    count_Q: np.ndarray

    @property
    def error(self) -> float:
        """Expected calibration error, sum_q n_q / n |accuracy_q - confidence_q| (Guo et al. 2017, eq. 3)."""
        return float(self.count_Q @ np.abs(self.accuracy_Q - self.confidence_Q) / self.count_Q.sum())


def reliability(probability_NC: np.ndarray, y_N: np.ndarray, bins: int = 15) -> Reliability:
    """Bins of equal width over [0, 1] of the largest probability; empty ones are left out."""
    confidence_N = probability_NC.max(1)
    right_N = probability_NC.argmax(1) == y_N
    bin_N = np.minimum((confidence_N * bins).astype(int), bins - 1)
    count_Q = np.bincount(bin_N, minlength=bins)
    there = count_Q > 0
    means = [np.bincount(bin_N, values, bins)[there] / count_Q[there] for values in (confidence_N, right_N)]
    return Reliability(means[0], means[1], count_Q[there])


def clipped(scores_NC: np.ndarray) -> np.ndarray:
    """Probabilities of a one-hot regression as it stands: its scores sum to 1, but stray outside [0, 1]."""
    positive_NC = np.clip(scores_NC, 0.0, 1.0)
    return positive_NC / positive_NC.sum(1, keepdims=True)


def fit_temperature(logits_NC: np.ndarray, y_N: np.ndarray) -> float:
    """The temperature T for which softmax(logits / T) has the least log loss (Guo et al. 2017, section 4.2)."""
    logits_NC = logits_NC.astype(np.float32)

    def loss(log_temperature: float) -> float:
        return log_loss(logits_NC * np.float32(np.exp(-log_temperature)), y_N)

    return float(np.exp(minimize_scalar(loss, bounds=(-6.0, 4.0), method="bounded", options={"xatol": 1e-3}).x))


def log_loss(logits_NC: np.ndarray, y_N: np.ndarray) -> float:
    """Mean of -log p(y), in nats."""
    return -float(log_softmax(logits_NC, axis=1)[np.arange(len(y_N)), y_N].mean(dtype=np.float64))


def confusion(predicted_N: np.ndarray, y_N: np.ndarray, n_classes: int) -> np.ndarray:
    """Counts [true class, predicted class]."""
    return np.bincount(y_N * n_classes + predicted_N, minlength=n_classes**2).reshape(n_classes, n_classes)


def accuracies(confusion_CC: np.ndarray) -> dict[str, float]:
    """Accuracy, and its mean over the classes that occur, from a confusion matrix."""
    count_C = confusion_CC.sum(1)
    recall_C = confusion_CC.diagonal()[count_C > 0] / count_C[count_C > 0]
    return {
        "accuracy": float(confusion_CC.trace() / confusion_CC.sum()),
        "balanced_accuracy": float(recall_C.mean()),
    }


def auroc(scores_NC: np.ndarray, y_N: np.ndarray) -> float:
    """Area under the ROC curve, each class against the rest, mean over the classes that occur; ties count half."""
    if scores_NC.shape[1] == 2:
        scores_NC = scores_NC[:, 1:] - scores_NC[:, :1]
        y_N = y_N - 1
    areas = []
    for c, score_N in enumerate(scores_NC.T):
        mine = y_N == c
        n, n_rest = int(mine.sum()), int((~mine).sum())
        if n and n_rest:
            areas.append((rankdata(score_N)[mine].sum() - n * (n + 1) / 2) / (n * n_rest))
    return float(np.mean(areas)) if areas else float("nan")


def class_metrics(
    scores_NC: np.ndarray, probability_NC: np.ndarray, y_N: np.ndarray, temperature: float
) -> tuple[dict[str, float], np.ndarray, tuple[Reliability, Reliability]]:
    """Metrics, confusion counts, and reliability: of the probabilities as fitted, of softmax(scores / temperature)."""
    confusion_CC = confusion(scores_NC.argmax(1), y_N, scores_NC.shape[1])
    before = reliability(probability_NC, y_N)
    after = reliability(softmax(scores_NC / temperature, axis=1), y_N)
    metrics = accuracies(confusion_CC) | {
        "auroc": auroc(scores_NC, y_N),
        "log_loss": log_loss(scores_NC / temperature, y_N),
        "ece_uncalibrated": before.error,
        "ece": after.error,
    }
    return metrics, confusion_CC, (before, after)


def class_sums(right_N: np.ndarray, owner_N: np.ndarray, n_documents: int) -> np.ndarray:
    """Right answers and examples of each document [M, 2]: what accuracy is made of."""
    return np.stack([np.bincount(owner_N, weights, n_documents) for weights in (right_N, np.ones_like(right_N))], 1)


def number_sums(predicted_N: np.ndarray, y_N: np.ndarray, owner_N: np.ndarray, n_documents: int) -> np.ndarray:
    """Squared error, examples, sum and sum of squares of each document [M, 4]: what R2 is made of."""
    columns = ((y_N - predicted_N) ** 2, np.ones_like(y_N), y_N, y_N**2)
    return np.stack([np.bincount(owner_N, weights, n_documents) for weights in columns], 1)


def accuracy_of(sums: np.ndarray) -> np.ndarray:
    """Accuracy from (summed) `class_sums` [..., 2]."""
    return np.asarray(sums[..., 0] / sums[..., 1])


def r2_of(sums: np.ndarray) -> np.ndarray:
    """1 - squared error / squared deviation from the mean, from (summed) `number_sums` [..., 4]."""
    error, n, total, square = np.moveaxis(sums, -1, 0)
    return np.asarray(1 - error / (square - total**2 / n))


def intervals(
    sums: list[np.ndarray], statistics: list[Callable[[np.ndarray], np.ndarray]], seed: int
) -> list[tuple[float, float]]:
    """95% intervals of statistics of summed documents: documents are drawn with replacement, the same for all."""
    rng = np.random.default_rng([seed, 2])
    columns = np.concatenate(sums, axis=1)
    n = len(columns)
    drawn = np.stack([np.bincount(rng.integers(0, n, n), minlength=n) @ columns for _ in range(_REPLICATES)])
    edges = np.cumsum([each.shape[1] for each in sums])[:-1]
    found = []
    for totals, statistic in zip(np.split(drawn, edges, axis=1), statistics, strict=True):
        with np.errstate(divide="ignore", invalid="ignore"):  # a replicate may miss every document with an answer
            low, high = np.nanquantile(statistic(totals), [0.025, 0.975])
        found.append((float(low), float(high)))
    return found
