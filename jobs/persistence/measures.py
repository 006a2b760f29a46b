"""Four measures of the agreement of two sites about the same tokens, each with what permuted tokens give.

Pearson: r of the cosines of all pairs of tokens, the diagonal left out. CKA: linear and debiased. Neighbours: share of
a token's k nearest that are so in both. Rotation: R2 on held-out tokens of the best rotation and scale (Procrustes).

N tokens, D and E widths, K neighbours.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from jobs.alignment.maps import Procrustes, fit, judge
from jobs.alignment.moments import Sums
from jobs.core.linalg import blocks
from jobs.core.splits import split_documents
from jobs.emb2emb.maps import moments, uncentred
from jobs.geometry.agreement import overlap, permuted
from jobs.geometry.similarity import pearson, row_sums
from jobs.persistence.cells import CONTROLS, MEASURES, Cell, Control, Measure
from jobs.persistence.config import Config
from jobs.persistence.controls import Controlled, View


def cells(
    sources: Sequence[Controlled], targets: Sequence[Controlled], keys: Sequence[str], config: Config
) -> list[Cell]:
    """All pairs of sites."""
    test_N = split_documents(np.array(keys, object), validation=0, test=config.held_out, seed=config.seed).test
    return [
        cell
        for source in sources
        for target in targets
        for cell in _of_pair(source, target, torch.from_numpy(test_N), config)
    ]


def _of_pair(source: Controlled, target: Controlled, test_N: Tensor, config: Config) -> Iterator[Cell]:
    found = {control: _with_null(control, source, target, test_N, config) for control in CONTROLS}
    for measure in MEASURES:
        for control in CONTROLS:
            value, null = found[control][0][measure], [one[measure] for one in found[control][1]]
            yield Cell(source.site, target.site, measure, control, value, float(np.mean(null)), float(np.std(null)))


def _with_null(
    control: Control, source: Controlled, target: Controlled, test_N: Tensor, config: Config
) -> tuple[dict[Measure, float], list[dict[Measure, float]]]:
    x, y = source.views[control], target.views[control]
    rng, n = np.random.default_rng(config.seed), len(x.x_ND)
    nulls = []
    for _ in range(config.permutations):
        order_N = torch.from_numpy(rng.permutation(n)).to(x.x_ND.device)
        null = View(y.x_ND[order_N], y.unit_ND[order_N], permuted(y.near_NK, order_N))
        nulls.append(measured(x, null, test_N, control))
    return measured(x, y, test_N, control), nulls


def measured(x: View, y: View, test_N: Tensor, control: Control) -> dict[Measure, float]:
    """All four."""
    n = len(x.x_ND)
    return {
        "pearson": float(pearson(row_sums(x.unit_ND, y.unit_ND).sum(0), n * (n - 1))),
        "cka": _cka(x.x_ND, y.x_ND),
        "neighbours": float(overlap(x.near_NK, y.near_NK).double().mean()),
        "rotation": _rotation(x.x_ND, y.x_ND, test_N, control),
    }


def _cka(x_ND: Tensor, y_NE: Tensor) -> float:
    sums = Sums([x_ND.mean(0, dtype=torch.float64)], [y_NE.mean(0, dtype=torch.float64)])
    for part in blocks(len(x_ND), 16 * (x_ND.shape[1] + y_NE.shape[1])):
        sums.add(x_ND[part].double(), y_NE[part].double())
    return sums.cka(0, 0)


def _rotation(x_ND: Tensor, y_NE: Tensor, test_N: Tensor, control: Control) -> float:
    """About the origin where states are as they are, else about the training tokens' means."""
    train, test = (moments(x_ND, y_NE, torch.nonzero(mask).squeeze(1).to(x_ND.device)) for mask in (~test_N, test_N))
    train = uncentred(train) if control == "raw" else train
    return judge(fit(Procrustes(), train, train), test).r2
