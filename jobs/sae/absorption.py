"""Absorption: rows that have a concept, whose own features are silent because another feature speaks for them.

N rows, P rows that have a concept and whose probe says so, C concepts, D dimensions of a hidden state, F features, A
active entries, K main features of a concept.

As in SAEBench (Karvonen et al. 2025, 2503.09532, after Chanin et al. 2024, 2409.14507). A linear probe on hidden
states gives the concept's direction. Main features: those that differ most by the concept, one more as long as it
raises the F1 of a probe of these features by more than .03. On other rows, with w the probe's unit direction:

- full absorption: all main features are silent, and the feature with the largest part z_f (a_f . w) has cos(a_f, w) >=
  .025 and carries at least .4 of the row's projection on w;
- absorption fraction: the part of the at most 3 strongest other features of cos >= .1, over that and the main features'
  part; 0 where the 3 carry less than .4 of the projection or the main features carry all of it.

SAEBench takes features by the weights of an l1 probe, and multiplies codes by cosines, which is the same for unit
atoms. It projects whole rows; here what the decoder adds without any feature is taken off, since no feature could
carry it. Smaller models than about 1B parameters and dictionaries of fewer than about 16k features have too few
features for one concept: there the numbers say little.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import csc_array, csr_array, vstack
from torch import Tensor

from jobs.core.context import Metric
from jobs.sae.binary import balanced, fit_planes, fit_small
from jobs.sae.codes import Codes
from jobs.sae.contexts import rank_in_group

FULL_COSINE, FRACTION_COSINE = 0.025, 0.1
"""Least cosine of an absorbing atom with the probe."""
LEAST_SHARE = 0.4
"""Of a row's projection on the probe that absorbing features carry."""
MOST_ABSORBERS = 3
MOST_MAIN = 10
LEAST_GAIN = 0.03
"""F1 that one more main feature must add."""
LEAST_F1 = 0.6
"""Of the probe on other rows: below, the concept is not linear in the hidden state, and nothing can be absorbed."""
FEWEST_ROWS = 10
"""Rows with the concept on each side."""
_SILENT = 1e-8
_DRAWS = 5
"""Deals of atoms to features that the null averages over."""


class Rows(NamedTuple):
    """Rows that may have one concept each, on two sides: probes and features are chosen on one, scored on the other."""

    x_ND: Tensor
    """Hidden states less what the decoder adds without any feature."""
    z_NF: csr_array
    concept_N: np.ndarray
    """Number of the concept; -1 for none."""
    train_N: np.ndarray
    """bool"""


@dataclass(frozen=True)
class Absorption:
    """One concept, on the rows of the scored side that have it and whose probe says so."""

    concept: int
    f1: float
    """Of the probe on the scored side."""
    main_K: np.ndarray
    """Main features, the most telling first."""
    rows_P: np.ndarray
    """Places of the rows."""
    full_P: np.ndarray
    """Whether each is fully absorbed."""
    fraction_P: np.ndarray
    """Absorption fraction of each."""
    absorber_P: np.ndarray
    """The feature that carries most of each row's projection."""
    full_null: float
    """Share of rows that would count as absorbed were the atoms of other features dealt out anew."""
    fraction_null: float


class Verdict(NamedTuple):
    """On each row."""

    full_P: np.ndarray
    fraction_P: np.ndarray
    absorber_P: np.ndarray


def gathered(batches: Iterable[tuple[Tensor, Codes]], width: int) -> tuple[Tensor, csr_array]:
    """Hidden states and codes of several batches, one below the other."""
    states, codes = [], []
    for x_BD, found in batches:
        rows_A, features_A, values_A = (part.detach().cpu().numpy() for part in found.active())
        codes.append(csr_array((values_A, (rows_A, features_A)), shape=(len(x_BD), width)))
        states.append(x_BD.detach().cpu().float())
    return torch.cat(states), csr_array(vstack(codes))


def absorption(rows: Rows, atoms_FD: Tensor, seed: int) -> tuple[Absorption, ...]:
    """Of every concept with rows enough, a probe good enough and a feature of its own; atoms in the rows' units."""
    train_N, test_N = np.flatnonzero(rows.train_N), np.flatnonzero(~rows.train_N)
    concepts = [c for c in range(int(rows.concept_N.max(initial=-1)) + 1) if _enough(rows, c, train_N, test_N)]
    if not concepts:
        return ()
    has_CN = rows.concept_N == np.array(concepts)[:, None]
    planes = fit_planes(rows.x_ND[torch.from_numpy(train_N)], torch.from_numpy(has_CN[:, train_N]), seed)
    columns, found = csc_array(rows.z_NF), []
    for concept, has_N, plane in zip(concepts, has_CN, planes, strict=True):
        said_N = (plane.scores(rows.x_ND) > 0).numpy()
        f1 = f1_score(said_N[test_N], has_N[test_N])
        main_K = main_features(columns, has_N, train_N, seed)
        if f1 > LEAST_F1 and len(main_K):
            right_P = test_N[said_N[test_N] & has_N[test_N]]
            found.append(_judged(rows, atoms_FD, concept, f1, plane.w_D, main_K, right_P, seed))
    return tuple(found)


def _enough(rows: Rows, concept: int, *sides: np.ndarray) -> bool:
    return min(int((rows.concept_N[side] == concept).sum()) for side in sides) >= FEWEST_ROWS


def f1_score(said_N: np.ndarray, has_N: np.ndarray) -> float:
    """2 hits / (said + has)."""
    return float(2 * (said_N & has_N).sum() / max(int(said_N.sum()) + int(has_N.sum()), 1))


def main_features(z_NF: csc_array, has_N: np.ndarray, at_N: np.ndarray, seed: int) -> np.ndarray:
    """The features that tell a concept on the rows at `at_N`: at least one, if any is louder with it than without."""
    members_N2 = np.zeros((len(has_N), 2))
    members_N2[at_N, (~has_N[at_N]).astype(int)] = 1
    members_N2 /= members_N2.sum(0)
    means_F2 = z_NF.T @ members_N2
    gap_F = means_F2[:, 0] - means_F2[:, 1]
    candidates = np.argsort(-gap_F, kind="stable")[: min(MOST_MAIN, int((gap_F > 0).sum()))]
    x_NK = torch.from_numpy(z_NF[:, candidates].toarray()[at_N].astype(np.float32))
    drawn = torch.from_numpy(balanced(has_N[at_N], np.arange(len(at_N)), len(at_N), np.random.default_rng(seed)))
    answers_N = torch.from_numpy(has_N[at_N])
    kept, best = 0, -np.inf
    for k in range(1, len(candidates) + 1):
        plane = fit_small(x_NK[drawn, :k], answers_N[drawn])
        f1 = f1_score((plane.scores(x_NK[:, :k]) > 0).numpy(), has_N[at_N])
        if f1 <= best + LEAST_GAIN:
            break
        kept, best = k, f1
    return candidates[:kept]


def _judged(
    rows: Rows,
    atoms_FD: Tensor,
    concept: int,
    f1: float,
    w_D: Tensor,
    main_K: np.ndarray,
    right_P: np.ndarray,
    seed: int,
) -> Absorption:
    unit_D = w_D / w_D.norm()
    projection_P = (rows.x_ND[torch.from_numpy(right_P)] @ unit_D).numpy()
    along_F = atoms_FD @ unit_D
    cosine_F = (along_F / atoms_FD.norm(dim=1).clamp(min=1e-12)).numpy()
    z_PF = rows.z_NF[right_P]
    true = judge(projection_P, z_PF, along_F.numpy(), cosine_F, main_K)
    dealt = []
    live = np.setdiff1d(np.unique(rows.z_NF.indices), main_K)
    for draw in range(_DRAWS):
        order_F = np.arange(len(cosine_F))
        order_F[live] = np.random.default_rng((seed, draw)).permutation(live)
        dealt.append(judge(projection_P, z_PF, along_F.numpy()[order_F], cosine_F[order_F], main_K))
    full_null, fraction_null = (
        float(np.mean([_share(one) for one in some]))
        for some in ([verdict.full_P for verdict in dealt], [verdict.fraction_P for verdict in dealt])
    )
    return Absorption(concept, f1, main_K, right_P, *true, full_null, fraction_null)


def judge(
    projection_P: np.ndarray, z_PF: csr_array, along_F: np.ndarray, cosine_F: np.ndarray, main_K: np.ndarray
) -> Verdict:
    """Absorption of each row, given its projection on the probe's unit direction, its codes, and a_f . w and
    cos(a_f, w) of every atom."""
    n = len(projection_P)
    rows_A, features_A = np.repeat(np.arange(n), np.diff(z_PF.indptr)), z_PF.indices
    part_A = z_PF.data * along_F[features_A]
    order_A = np.lexsort((features_A, -part_A, rows_A))
    rows_A, features_A, part_A = rows_A[order_A], features_A[order_A], part_A[order_A]
    main_A = np.isin(features_A, main_K)
    loud_A = main_A & (np.abs(z_PF.data[order_A]) >= _SILENT)
    silent_P = np.bincount(rows_A[loud_A], minlength=n) == 0
    main_P = np.bincount(rows_A[main_A], part_A[main_A], minlength=n)
    first_A = rank_in_group(rows_A) == 0
    top_P, absorber_P = np.zeros(n), np.full(n, -1)
    top_P[rows_A[first_A]], absorber_P[rows_A[first_A]] = part_A[first_A], features_A[first_A]
    wanted_P = LEAST_SHARE * projection_P
    aligned_P = (absorber_P >= 0) & (cosine_F[absorber_P] >= FULL_COSINE)
    full_P = silent_P & aligned_P & (projection_P > 0) & (top_P >= wanted_P)
    helps_A = ~main_A & (cosine_F[features_A] >= FRACTION_COSINE) & (part_A > 0)
    rows_A, part_A = rows_A[helps_A], part_A[helps_A]
    few_A = rank_in_group(rows_A) < MOST_ABSORBERS
    others_P = np.bincount(rows_A[few_A], part_A[few_A], minlength=n)
    return Verdict(full_P, _fraction(projection_P, main_P, others_P), absorber_P)


def _fraction(projection_P: np.ndarray, main_P: np.ndarray, others_P: np.ndarray) -> np.ndarray:
    taken_P = np.clip(np.minimum(others_P, projection_P - main_P), 0, None)
    spoken_P = np.clip(main_P, 0, None)
    share_P = taken_P / np.maximum(taken_P + spoken_P, 1e-12)
    fraction_P: np.ndarray = np.where(others_P < LEAST_SHARE * projection_P, 0.0, share_P)
    return fraction_P


def _share(values_P: np.ndarray) -> float:
    """Their mean; 0 of none."""
    return float(values_P.mean()) if len(values_P) else 0.0


def metrics(found: Sequence[Absorption], what: str) -> tuple[Metric, ...]:
    """Means over the concepts of a kind, `what`."""
    if not found:
        return ()
    full, fraction = [_share(one.full_P) for one in found], [_share(one.fraction_P) for one in found]
    nulls = float(np.mean([one.full_null for one in found])), float(np.mean([one.fraction_null for one in found]))
    splits = float(np.mean([len(one.main_K) for one in found]))
    name, null = f"absorption.{what}", "null: the same with the atoms of other features dealt out anew"
    return (
        Metric(
            name=f"{name}.full",
            value=float(np.mean(full)),
            null=nulls[0],
            about=f"share of rows whose main features are silent and one other speaks for them; {null}",
        ),
        Metric(
            name=f"{name}.fraction",
            value=float(np.mean(fraction)),
            null=nulls[1],
            about=f"share of the concept that up to {MOST_ABSORBERS} other features carry; {null}",
        ),
        Metric(name=f"{name}.main", value=splits, about="main features per concept: more than 1 is a split concept"),
    )


def notes(found: Sequence[Absorption], names: Sequence[str]) -> tuple[str, ...]:
    """Which concepts were measured, and what the numbers are worth."""
    if not found:
        return (f"No absorption: no concept has {FEWEST_ROWS} rows on each side and a probe of F1 above {LEAST_F1}.",)
    measured = ", ".join(names[one.concept] for one in found)
    n = sum(len(one.rows_P) for one in found)
    return (
        f"Absorption is measured on {n} rows of {len(found)} concepts ({measured}); it means something for models from "
        "about 1B parameters and dictionaries from about 16k features on.",
    )
