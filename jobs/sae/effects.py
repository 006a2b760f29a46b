"""What the coder costs the model: loss recovered, from the cache or the live model, and features taken out one by one.

R rows asked for, M features.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from jobs.core.context import Context, Metric
from jobs.core.excerpts import excerpts
from jobs.sae.ablation import Ablated, ablate
from jobs.sae.coder import Coder
from jobs.sae.config import Config
from jobs.sae.recovered import LiveLosses, Losses, Recovered, cache_losses, recovered
from jobs.sae.rows import Rows

_TOKENS = 20_000
"""Of held-out sequences that the loss is measured on."""
_ABLATED_TOKENS = 400
"""Of held-out sequences that features are taken out of."""
_ABLATED = 16
"""Features that are taken out."""


@dataclass(frozen=True)
class Effects:
    """What was measured; the features are the live ones that fire most."""

    recovered: Recovered
    features_M: np.ndarray
    ablated: Ablated | None
    """Only with a live model."""


def losses_of(config: Config, ctx: Context, device: str) -> Losses | None:
    """Where losses come from; asked for before a long fit, for it refuses what has none."""
    match config.loss:
        case "none":
            return None
        case "cache":
            return cache_losses(ctx.cache(config.cache), config.site, ctx.cache(config.unembed), device)
        case "model":
            model = ctx.model(config.cache)
            model.loss([np.zeros(2, np.int64)])
            return LiveLosses(model, config.site)


@torch.no_grad()
def effects(config: Config, ctx: Context, coder: Coder, rows: Rows, losses: Losses, fired_F: np.ndarray) -> Effects:
    """Of the held-out rows, or as many whole sequences of them as is measured."""
    cache = ctx.cache(config.cache)
    mean_D = torch.tensor(rows.target_mean_E, dtype=torch.float32, device=rows.device)
    found = recovered(
        excerpts(cache, config.site, rows.held_H, _TOKENS), losses, lambda x: coder.decode(coder.encode(x), x), mean_D
    )
    features_M = np.argsort(-fired_F, kind="stable")[: min(_ABLATED, int((fired_F > 0).sum()))]
    if config.loss != "model" or not len(features_M):
        return Effects(found, features_M, None)
    some = excerpts(cache, config.site, rows.held_H, _ABLATED_TOKENS, batch=1024)
    atoms_FD = coder.atoms_FD / coder.scale_E
    ablated = ablate(ctx.model(config.cache), config.site, some, coder.encode, atoms_FD, features_M.tolist())
    return Effects(found, features_M, ablated)


def effect_metrics(found: Effects) -> tuple[Metric, ...]:
    """Loss recovered with the losses that it is made of."""
    lost = found.recovered
    what = f"nats per token, over {lost.tokens} tokens"
    metrics = [
        Metric(
            name="loss_recovered",
            value=lost.share,
            null=0.0,
            about="(H_zero - H_sae) / (H_zero - H_orig); null: zeros in place of the rows",
        ),
        Metric(name="loss_recovered_of_mean", value=lost.share_of_mean, null=0.0, about="the same beside the mean row"),
        Metric(name="loss_original", value=lost.original, about=f"loss of the model as it is, {what}"),
        Metric(name="loss_rebuilt", value=lost.rebuilt, null=lost.zero, about=f"with what the coder rebuilds, {what}"),
    ]
    if found.ablated is not None:
        fires, harm = found.ablated.fires_MR, found.ablated.harm_MR
        metrics.append(
            Metric(
                name="ablation_harm",
                value=_mean(harm[fires]),
                null=_mean(harm[~fires]),
                about=f"nats that a row loses without a feature, over the {len(harm)} that fire most, where they fire; "
                "null: rows of the same sequences in which they do not",
            )
        )
    return tuple(metrics)


def ablation_table(found: Effects) -> pa.Table | None:
    """A line per feature that was taken out."""
    if found.ablated is None:
        return None
    fires_MR, harm_MR = found.ablated.fires_MR, found.ablated.harm_MR
    lines = [
        {
            "feature": int(feature),
            "rows": len(harm_R),
            "fires": int(fires_R.sum()),
            "harm": _mean(harm_R[fires_R]),
            "harm_elsewhere": _mean(harm_R[~fires_R]),
        }
        for feature, fires_R, harm_R in zip(found.features_M, fires_MR, harm_MR, strict=True)
    ]
    return pa.Table.from_pylist(lines)


def _mean(values: np.ndarray) -> float:
    """NaN of nothing, without numpy's warning."""
    return float(values.mean()) if len(values) else float("nan")
