"""One site, read once, gives the probes of every target and of its shuffles, each at its own best penalty.

N examples, H held-out examples (validation and test), B examples of a block, D width, P problems, K outputs of all
problems side by side, C outputs of one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, assert_never

import numpy as np
import torch
from torch import Tensor

from jobs.core.splits import Split
from jobs.probe.examples import Examples, read_blocks
from jobs.probe.logistic import design, fit_logistic
from jobs.probe.ridge import Gram, Linear, ridge_path
from jobs.probe.targets import Labels, shuffled
from storage.reader import Activations
from storage.value import Value


class Ridge(Value, tag_field="kind", tag="ridge"):
    """Least squares on numbers and on one-hot classes, in closed form from sums: training rows are not kept."""

    penalties: tuple[float, ...] = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    """Tried in turn, in units of the mean eigenvalue of the states' covariance; validation documents choose."""


class Logistic(Value, tag_field="kind", tag="logistic"):
    """Multinomial logistic regression, for classes; keeps all examples in memory (twice max_rows x width x 4 bytes)."""

    penalties: tuple[float, ...] = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
    """Tried in turn, in units of the mean variance of the states' coordinates; validation documents choose."""
    balanced: bool = False
    """Weigh examples so that every class counts the same, however rare it is."""


Method = Ridge | Logistic


@dataclass(frozen=True)
class Problem:
    """A target as given (`shuffle` 0), or with its answers exchanged between documents."""

    labels: Labels
    shuffle: int
    y_N: Tensor

    @property
    def n_outputs(self) -> int:
        return self.labels.n_outputs


@dataclass(frozen=True)
class Group:
    """Problems that have answers for the same examples, and so share their sums."""

    known_N: np.ndarray
    problems: tuple[Problem, ...]

    @cached_property
    def widths(self) -> list[int]:
        """Outputs of each problem."""
        return [problem.n_outputs for problem in self.problems]

    def outputs(self, at_B: Tensor) -> Tensor:
        """One-hot classes and numbers of these examples side by side, float64 [B, K]."""
        y_BK = torch.zeros(len(at_B), sum(self.widths), dtype=torch.float64)
        for problem, y_BC in zip(self.problems, torch.split(y_BK, self.widths, 1), strict=True):
            if problem.labels.classes:
                y_BC.scatter_(1, problem.y_N[at_B, None], 1.0)
            else:
                y_BC[:, 0] = problem.y_N[at_B]
        return y_BK


class Fit(NamedTuple):
    """The probe of one problem, for states from which the site's origin was subtracted."""

    W_DC: Tensor
    b_C: Tensor
    penalty: float


class SiteFit(NamedTuple):
    """All probes of a site, and the held-out states to judge them on."""

    fits: list[tuple[Problem, Fit]]
    origin_D: Tensor
    x_HD: Tensor
    sums: "ClassSums"


class ClassSums:
    """Sums of the training states of each class of each target as given, filled as blocks go by."""

    def __init__(self, groups: Sequence[Group], parts: Split, width: int, device: str) -> None:
        self._train_N = parts.train
        self._problems = [
            (problem, group.known_N)
            for group in groups
            for problem in group.problems
            if problem.shuffle == 0 and problem.labels.classes
        ]
        self._sums = {
            problem.labels.name: torch.zeros(problem.n_outputs, width + 1, dtype=torch.float64, device=device)
            for problem, _ in self._problems
        }

    def passing(self, blocks: Iterator[tuple[slice, Tensor]]) -> Iterator[tuple[slice, Tensor]]:
        """The same blocks, counted."""
        for at, x_BD in blocks:
            for problem, known_N in self._problems:
                mine_B = torch.from_numpy(np.flatnonzero(self._train_N[at] & known_N[at]))
                rows_BD = x_BD[mine_B.to(x_BD.device)].double()
                counted = torch.cat([rows_BD, torch.ones_like(rows_BD[:, :1])], 1)
                self._sums[problem.labels.name].index_add_(0, problem.y_N[mine_B + at.start].to(x_BD.device), counted)
            yield at, x_BD

    def differences(self, name: str) -> Tensor:
        """Mean state of each class less the mean of all other classes' states, float64 [C, D]."""
        sums = self._sums[name]
        rest = sums.sum(0) - sums
        return sums[:, :-1] / sums[:, -1:] - rest[:, :-1] / rest[:, -1:]


def make_groups(targets: Sequence[Labels], documents_N: np.ndarray, shuffles: int, seed: int) -> list[Group]:
    """Every target with its shuffles, those with the same answered examples together."""
    found: dict[bytes, list[Problem]] = {}
    for number, labels in enumerate(targets):
        rng = np.random.default_rng([seed, 1, number])
        known = np.flatnonzero(labels.known_N)
        problems = found.setdefault(np.packbits(labels.known_N).tobytes(), [])
        problems.append(Problem(labels, 0, torch.from_numpy(labels.y_N)))
        for shuffle in range(1, shuffles + 1):
            y_N = labels.y_N.copy()
            y_N[known] = shuffled(labels.y_N[known], documents_N[known], rng)
            problems.append(Problem(labels, shuffle, torch.from_numpy(y_N)))
    return [Group(problems[0].labels.known_N, tuple(problems)) for problems in found.values()]


def fit_site(
    acts: Activations, examples: Examples, parts: Split, groups: Sequence[Group], method: Method, device: str
) -> SiteFit:
    """Read a site's examples once and fit every problem."""
    origin_D = torch.from_numpy(np.asarray(acts.moments.mean, dtype=np.float32)).to(device)
    read = ((at, x_BD - origin_D) for at, x_BD in read_blocks(acts, examples, device))
    sums = ClassSums(groups, parts, acts.d, device)
    blocks = sums.passing(read)
    match method:
        case Ridge():
            fits, x_HD = _fit_ridge(blocks, parts, groups, method, acts.d, device)
        case Logistic():
            fits, x_HD = _fit_logistic(blocks, parts, groups, method)
        case _:
            assert_never(method)
    return SiteFit(fits, origin_D, x_HD, sums)


def _fit_ridge(
    blocks: Iterator[tuple[slice, Tensor]],
    parts: Split,
    groups: Sequence[Group],
    method: Ridge,
    width: int,
    device: str,
) -> tuple[list[tuple[Problem, Fit]], Tensor]:
    grams = [[Gram(width, sum(group.widths), device) for _ in range(2)] for group in groups]
    held: list[Tensor] = []
    for at, x_BD in blocks:
        for group, pair in zip(groups, grams, strict=True):
            for gram, side_N in zip(pair, (parts.train, parts.validation), strict=True):
                mine_B = torch.from_numpy(np.flatnonzero(side_N[at] & group.known_N[at]))
                gram.add(x_BD[mine_B.to(device)], group.outputs(mine_B + at.start).to(device))
        held.append(x_BD[torch.from_numpy(~parts.train[at]).to(device)])
    fits: list[tuple[Problem, Fit]] = []
    for group, (train, validation) in zip(groups, grams, strict=True):
        path = ridge_path(train, method.penalties)
        errors_LK = torch.stack([validation.squared_error(fit) for fit in path])
        losses_LP = torch.stack([errors_LC.sum(1) for errors_LC in torch.split(errors_LK, group.widths, 1)], 1)
        fits += _choose(group, path, losses_LP, method.penalties)
    return fits, torch.cat(held)


def _fit_logistic(
    blocks: Iterator[tuple[slice, Tensor]], parts: Split, groups: Sequence[Group], method: Logistic
) -> tuple[list[tuple[Problem, Fit]], Tensor]:
    x_ND = torch.cat([x_BD for _, x_BD in blocks])
    fits: list[tuple[Problem, Fit]] = []
    for group in groups:
        y_PN = torch.stack([problem.y_N for problem in group.problems]).to(x_ND.device)
        train, validation = (
            torch.from_numpy(np.flatnonzero(side_N & group.known_N)).to(x_ND.device)
            for side_N in (parts.train, parts.validation)
        )
        y_PV = y_PN[:, validation]
        chosen = fit_logistic(
            design(x_ND[train]),
            y_PN[:, train],
            x_ND[validation],
            y_PV,
            group.widths,
            method.penalties,
            balanced=method.balanced,
        )
        for problem, (fit, penalty) in zip(group.problems, chosen, strict=True):
            fits.append((problem, Fit(*fit, penalty)))
    return fits, x_ND[torch.from_numpy(~parts.train).to(x_ND.device)]


def _choose(
    group: Group, path: Sequence[Linear], losses_LP: Tensor, penalties: Sequence[float]
) -> Iterator[tuple[Problem, Fit]]:
    """For each problem the penalty that lost least on the validation documents."""
    edges = np.cumsum([0, *group.widths])
    for p, (problem, best) in enumerate(zip(group.problems, losses_LP.argmin(0).tolist(), strict=True)):
        mine = slice(int(edges[p]), int(edges[p + 1]))
        yield problem, Fit(path[best].W_DK[:, mine], path[best].b_K[mine], penalties[best])
