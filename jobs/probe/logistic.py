"""Multinomial logistic regression of many targets at once: one product with the data per step serves them all.

N examples, V validation examples, D width of the site, P problems (targets and their shuffles), C classes of one, K
outputs of all problems side by side.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from jobs.probe.ridge import SMALLEST, Linear

_MEMORY = 20
_MAX_STEPS = 500
_CURVATURE = 0.1
"""Typical p (1 - p) of a class: scales the directions of large variance in the preconditioner; any value is correct."""


class Chosen(NamedTuple):
    """One problem's fit at the penalty that validation chose."""

    fit: Linear
    penalty: float


class Design(NamedTuple):
    """Training states about their mean, and the eigenvectors V and eigenvalues of their covariance."""

    x_ND: Tensor
    mean_D: Tensor
    values_D: Tensor
    V_DD: Tensor


def design(x_ND: Tensor) -> Design:
    """What all penalties share; overwrites `x_ND`, so that the states are in memory once."""
    mean_D = x_ND.mean(0, dtype=torch.float64)
    x_ND.sub_(mean_D.to(x_ND.dtype))
    values_D, V_DD = torch.linalg.eigh((x_ND.T @ x_ND).double() / len(x_ND))
    return Design(x_ND, mean_D, values_D.clamp(min=0), V_DD)


def fit_logistic(
    train: Design,
    y_PN: Tensor,
    x_VD: Tensor,
    y_PV: Tensor,
    n_classes: Sequence[int],
    penalties: Sequence[float],
    tolerance: float = 1e-3,
    balanced: bool = False,
) -> list[Chosen]:
    """Each problem at its best penalty: from the largest down, each fit starting where the last ended.

    A problem leaves when its validation loss no longer falls, so shuffled labels, which want the largest penalty, cost
    little beside the true ones. `balanced` weighs examples so that all classes of a problem count the same.
    """
    weights_PC = [class_weights(y_N, c) if balanced else None for y_N, c in zip(y_PN, n_classes, strict=True)]
    starts = [Linear(train.mean_D.new_zeros(len(train.mean_D), c), train.mean_D.new_zeros(c)) for c in n_classes]
    chosen: dict[int, Chosen] = {}
    lowest = [np.inf] * len(y_PN)
    active = list(range(len(y_PN)))
    for penalty in sorted(set(penalties), reverse=True):
        weights = [weights_PC[p] for p in active]
        fits = minimise(train, y_PN[active], [starts[p] for p in active], penalty, tolerance, weights)
        still = []
        for p, fit in zip(active, fits, strict=True):
            starts[p] = fit
            loss = float(torch.nn.functional.cross_entropy(scores(fit, x_VD), y_PV[p], weight=weights_PC[p]))
            if loss < lowest[p]:
                lowest[p], chosen[p] = loss, Chosen(fit, penalty)
                still.append(p)
        active = still
        if not active:
            break
    return [chosen[p] for p in range(len(y_PN))]


def scores(fit: Linear, x_ND: Tensor) -> Tensor:
    """x W + b, [N, C]."""
    return torch.addmm(fit.b_K.to(x_ND.dtype), x_ND, fit.W_DK.to(x_ND.dtype))


def class_weights(y_N: Tensor, n_classes: int) -> Tensor:
    """What an example of each class counts, float32 [C]: as much in sum for every class, 1 on average."""
    counts_C = torch.bincount(y_N, minlength=n_classes).clamp_min(1)
    return len(y_N) / (n_classes * counts_C).float()


def minimise(
    train: Design,
    y_PN: Tensor,
    starts: Sequence[Linear],
    penalty: float,
    tolerance: float,
    weights_PC: Sequence[Tensor | None] = (),
) -> list[Linear]:
    """argmin mean_n -log softmax(x_n W + b)[y_n] + l/2 ||W||^2 of every problem, for states as given to `design`.

    A penalty is in units of the mean variance of a coordinate, l = penalty * trace(cov) / D; in scikit-learn's terms
    C = 1 / (n l). Solved by L-BFGS in coordinates u = (0.1 cov + l I)^(1/2) W, where the problem is nearly round, to a
    gradient of at most `tolerance` there.
    """
    x_ND, mean_D, values_D, V_DD = train
    widths = [fit.W_DK.shape[1] for fit in starts]
    l2 = penalty * max(float(values_D.mean()), SMALLEST)
    scale_D1 = (_CURVATURE * values_D + l2).sqrt()[:, None]

    W_DK = torch.cat([fit.W_DK for fit in starts], 1)
    b_K = torch.cat([fit.b_K for fit in starts]) + mean_D @ W_DK
    u_DK = torch.cat([V_DD.T @ W_DK * scale_D1, b_K[None]])  # the last line is b
    solver = torch.optim.LBFGS(
        [u_DK],
        max_iter=_MAX_STEPS,
        tolerance_grad=tolerance,
        tolerance_change=1e-3 * tolerance,
        history_size=_MEMORY,
        line_search_fn="strong_wolfe",
    )

    def loss() -> float:
        W_DK, b_K = V_DD @ (u_DK[:-1] / scale_D1), u_DK[-1]
        scores_KN = torch.addmm(b_K.to(x_ND.dtype)[:, None], W_DK.T.to(x_ND.dtype), x_ND.T)
        log_loss = _to_slope(scores_KN, y_PN, widths, weights_PC or [None] * len(widths))
        W_slope = (scores_KN @ x_ND).T.double() + l2 * W_DK
        u_DK.grad = torch.cat([V_DD.T @ W_slope / scale_D1, scores_KN.sum(1, dtype=torch.float64)[None]])
        return log_loss + 0.5 * l2 * float(W_DK.square().sum())

    solver.step(loss)  # type: ignore[no-untyped-call]
    W_DK = V_DD @ (u_DK[:-1] / scale_D1)
    b_K = u_DK[-1] - mean_D @ W_DK
    return [Linear(W, b) for W, b in zip(torch.split(W_DK, widths, 1), torch.split(b_K, widths), strict=True)]


def _to_slope(scores_KN: Tensor, y_PN: Tensor, widths: Sequence[int], weights_PC: Sequence[Tensor | None]) -> float:
    """Turns scores into the derivative of the loss by them, in place; the sum over problems of the mean log loss."""
    loss, n = 0.0, scores_KN.shape[1]
    problems = zip(torch.split(scores_KN, list(widths)), y_PN[:, None], weights_PC, strict=True)
    for scores_CN, answer_1N, weight_C in problems:
        weight_1N = 1 if weight_C is None else weight_C[answer_1N]
        scores_CN.sub_(torch.logsumexp(scores_CN, 0))
        loss -= float((weight_1N * scores_CN.gather(0, answer_1N)).sum(dtype=torch.float64)) / n
        scores_CN.exp_().scatter_add_(0, answer_1N, torch.full_like(answer_1N, -1, dtype=scores_CN.dtype)).div_(n)
        scores_CN.mul_(weight_1N)
    return loss
