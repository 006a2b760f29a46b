"""A study from its rows to its artifact: fits to rows that were drawn, and what they are worth on held-out rows.

N rows of a fit, F features, D dimensions, M rows that one atom is a mixture of.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from jobs.core.context import Context, Metric, Report
from jobs.core.tensors import as_tensor
from jobs.factors.coder import Factors
from jobs.factors.config import Config
from jobs.factors.fitted import Fitted
from jobs.factors.report import leave, leave_fit, notes
from jobs.sae import Config as SaeConfig
from jobs.sae import TopK
from jobs.sae.anatomy import compared, stability_metrics
from jobs.sae.dictionaries import random_atoms
from jobs.sae.measure import measure
from jobs.sae.report import report
from jobs.sae.rows import Rows, split_rows
from jobs.sae.stability import stability
from jobs.sae.start import normalisation
from storage.runs import Progress

_MEASURED_AT_ONCE = 2048
"""Held-out rows."""


@dataclass(frozen=True)
class Fit:
    """One dictionary, and the rows that it was fitted to."""

    fitted: Fitted
    rows_N: np.ndarray
    """Their numbers in the cache."""
    points_ND: Tensor
    """Some of them, normalised: twice as many as there are atoms, or all."""


def study(config: Config, ctx: Context) -> Report:
    """Fit, measure on other documents, keep."""
    asked = as_sae(config)
    rows = split_rows(asked, ctx)
    fits = [_fit(config, ctx, rows, n) for n in range(1 + config.twins)]
    first = fits[0]
    factors = Factors.of(first.fitted, *normalisation(config.normalise, rows.inputs)).to(ctx.device)
    found = measure(asked, factors, rows)
    ctx.save("weights", factors.arrays())
    portraits = leave(asked, ctx, rows, factors, found)
    leave_fit(ctx, first.fitted, first.rows_N, rows.tokens)
    said = report(asked, rows, found, portraits)
    metrics, remarks = _stability(fits, config)
    return Report(
        headline=said.headline,
        metrics=(*said.metrics, *metrics),
        notes=(*notes(config, rows, first.fitted, len(first.rows_N), found), *remarks),
    )


def as_sae(config: Config) -> SaeConfig:
    """An `sae` study of the same rows: with one seed both have one split, and both are measured by the same code."""
    return SaeConfig(
        cache=config.cache,
        site=config.site,
        normalise=config.normalise,
        width=config.width,
        activation=TopK(k=1),
        batch=_MEASURED_AT_ONCE,
        held_out=config.held_out,
        n_features=config.n_features,
        n_examples=config.n_examples,
        seed=config.seed,
    )


def _fit(config: Config, ctx: Context, rows: Rows, n: int) -> Fit:
    """The fit number n, to rows of its own draw."""
    began = time.monotonic()
    seed = config.seed + n
    rows_N, x_ND = _drawn(config, ctx, rows, seed)
    fitted = config.method.fit(x_ND, config.width, seed)
    seconds = time.monotonic() - began
    speed = len(rows_N) / max(seconds, 1e-9)
    said = Progress(
        step="fitting", done=n + 1, total=1 + config.twins, unit="fits", tokens_per_second=speed, seconds=seconds
    )
    ctx.tell(said)
    return Fit(fitted, rows_N, x_ND[: 2 * config.width].cpu())


def _drawn(config: Config, ctx: Context, rows: Rows, seed: int) -> tuple[np.ndarray, Tensor]:
    """Numbers of training rows in random order, and the rows as the fit sees them."""
    shift_D, scale_D = (as_tensor(one, ctx.device) for one in normalisation(config.normalise, rows.inputs))
    acts = ctx.cache(config.cache).site(config.site)
    numbers, found, n = list[np.ndarray](), list[Tensor](), 0
    for rows_B, x_BD in acts.shuffled(with_rows=True, seed=seed, keep=rows.training_N):
        numbers.append(rows_B[: config.max_rows - n])
        found.append((as_tensor(x_BD[: config.max_rows - n], ctx.device) - shift_D) * scale_D)
        n += len(numbers[-1])
        if n == config.max_rows:
            break
    return np.concatenate(numbers), torch.cat(found)


def _stability(fits: Sequence[Fit], config: Config) -> tuple[tuple[Metric, ...], tuple[str, ...]]:
    """How far fits from other seeds agree, by the same names as in `sae`; nothing of one fit."""
    if len(fits) == 1:
        return (), ()
    final = [one.fitted.atoms_FD.cpu() for one in fits]
    starts = [one.fitted.start_FD.cpu() for one in fits if one.fitted.start_FD is not None]
    signed = fits[0].fitted.coding.signed
    first = starts or [random_atoms(len(one), one.shape[1], config.seed + n) for n, one in enumerate(final)]
    plain, about_mean = compared(final, first, fits[0].points_ND, config.seed)
    left_out = set[str]()
    remarks = [
        f"Stability is over the fits of seeds {config.seed} to {config.seed + config.twins}, each to rows drawn anew "
        "from the same training documents; where these are all training rows, it is of the starts alone."
    ]
    if not starts:
        left_out |= {"stability_init", "stabilisation"}
        remarks.append("The method has no atoms before the fit, so there is no stability of the start.")
    if signed:
        plain = stability(final, first, fits[0].points_ND, signed=True, seed=config.seed)
        left_out |= {"stability_centred"}
        remarks.append("Codes have signs: an atom and its negative count as one, and a mean atom means nothing.")
    metrics = tuple(one for one in stability_metrics(plain, about_mean) if one.name not in left_out)
    return metrics, (*remarks, *(plain.remarks if starts else ()))
