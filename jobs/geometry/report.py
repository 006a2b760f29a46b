"""The report of a geometry artifact: one line, the numbers with their nulls, and what a reader has to know."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from jobs.core.context import Metric, Report
from jobs.geometry.agreement import WIDEST, Agreement, Local
from jobs.geometry.coherence import Coherence, coherence
from jobs.geometry.config import Config
from jobs.geometry.points import Chosen, DocumentMeans, Rows, TokenMeans
from jobs.geometry.similarity import Similarity
from jobs.geometry.space import Space

_POINTS = {TokenMeans: "token ids", DocumentMeans: "documents", Rows: "tokens in place"}


def write(config: Config, chosen: Chosen, spaces: Sequence[Space], agreement: Agreement | None) -> Report:
    """Everything found, the most telling first."""
    metrics = [] if agreement is None else _agreement_metrics(agreement)
    coherences = (
        agreement.coherence if agreement else (coherence(spaces[0], spaces[0], config.permutations, config.seed),)
    )
    for label, space, told in zip(("first", "second"), spaces, coherences, strict=False):
        metrics += _space_metrics(label, space, config)
        metrics += _coherence_metrics(label, told, _judge(space, spaces))
    undefined = [metric.name for metric in metrics if not np.isfinite(metric.value)]
    notes = _notes(config, chosen, spaces)
    if undefined:
        notes.append(f"Not defined for these points, which do not vary in it: {', '.join(undefined)}.")
    kept = tuple(metric for metric in metrics if metric.name not in undefined)
    return Report(headline=_headline(chosen, spaces, agreement), metrics=kept, notes=tuple(notes))


def _judge(space: Space, spaces: Sequence[Space]) -> str:
    """The space that tells whether neighbours belong together: the other one, where there is one."""
    return next((other.name for other in spaces if other is not space), "the same space")


def _headline(chosen: Chosen, spaces: Sequence[Space], agreement: Agreement | None) -> str:
    dimensions = " and ".join(
        f"{_median(space.dimension_Q):.0f} of {space.x_ND.shape[1]}{' (saturated)' if space.saturated else ''}, "
        f"{_median(space.control_Q):.0f} if Gaussian"
        for space in spaces
    )
    size = f"median local dimension {dimensions}"
    if agreement is None:
        return f"{spaces[0].name}: {len(chosen.keys):,} points, {size}"
    r, weights = agreement.cosine, agreement.weights
    return (
        f"{spaces[0].name} and {spaces[1].name} agree on which of {len(chosen.keys):,} points are alike: r = {r.r:.3f} "
        f"(permuted {r.null_P.mean():.3f}) and on LLE weights: cosine {weights.score_N.mean():.3f} "
        f"(permuted {weights.null_N.mean():.3f}); {size}"
    )


def _agreement_metrics(agreement: Agreement) -> list[Metric]:
    about = "cosine of LLE weights over all points, one row of weights per point"
    refitted = "the same with the first space's neighbours in both: how much, given who"
    rank, rank_null = agreement.rank
    about_mean, about_mean_null = agreement.rank_centred
    r, null = agreement.dimension_r
    order, order_null = agreement.dimension_rank
    return [
        *_similarity_metrics("similarity", agreement.cosine, "Pearson r of cosines over all pairs i < j"),
        *_similarity_metrics("similarity_centred", agreement.centred, "the same after the mean point is removed"),
        *_similarity_metrics(
            "similarity_without_widest",
            agreement.without_widest,
            f"of the cosines without {WIDEST} principal components",
        ),
        *_similarity_metrics("dot", agreement.dot, "Pearson r of dot products over all pairs i < j"),
        *_similarity_metrics("dot_centred", agreement.dot_centred, "the same after the mean point is removed"),
        Metric(name="similarity_rank", value=rank, null=rank_null, about="Spearman's rho over sampled pairs"),
        Metric(name="similarity_rank_centred", value=about_mean, null=about_mean_null, about="the same, mean removed"),
        *_local_metrics("weights", agreement.weights, about),
        *_local_metrics("weights_refitted", agreement.refitted, refitted),
        _mean("overlap", agreement.overlap, "share of the k nearest neighbours that are so in both"),
        *(metric for k, parts in agreement.further.items() for metric in _further_metrics(k, *parts)),
        Metric(name="dimension_r", value=r, null=null, about="Pearson r of intrinsic dimension over points"),
        Metric(name="dimension_rank", value=order, null=order_null, about="Spearman's rho of the same"),
    ]


def _similarity_metrics(name: str, found: Similarity, about: str) -> list[Metric]:
    n = len(found.null_P)
    return [
        Metric(name=name, value=found.r, null=float(found.null_P.mean()), about=about),
        Metric(name=f"{name}_low", value=found.low, about="2.5% quantile over points drawn again"),
        Metric(name=f"{name}_high", value=found.high, about="97.5% quantile over points drawn again"),
        Metric(name=f"{name}_null_sd", value=float(found.null_P.std(ddof=1)), about=f"of r over {n} permutations"),
    ]


def _local_metrics(name: str, part: Local, about: str) -> list[Metric]:
    quartiles = [
        Metric(
            name=f"{name}_q{quarter}",
            value=float(part.score_N.quantile(quarter / 4)),
            null=float(part.null_N.quantile(quarter / 4)),
            about=f"quartile {quarter} over points",
        )
        for quarter in (1, 2, 3)
    ]
    return [_mean(name, part, about), *quartiles]


def _further_metrics(k: int, weights: Local, overlap: Local) -> list[Metric]:
    return [
        _mean(f"weights_k{k}", weights, f"cosine of LLE weights over all points, {k} neighbours"),
        _mean(f"overlap_k{k}", overlap, f"share of the {k} nearest neighbours that are so in both"),
    ]


def _coherence_metrics(label: str, found: Coherence, judge: str) -> list[Metric]:
    about = f"share of pairs of a point's neighbours that are neighbours in {judge}; null: random sets of points"
    return [
        Metric(
            name=f"{label}.coherence_lowest",
            value=found.lowest,
            null=found.random,
            about=f"{about}; points in the lowest tenth by dimension",
        ),
        Metric(
            name=f"{label}.coherence_highest",
            value=found.highest,
            null=found.random,
            about=f"{about}; points in the highest tenth by dimension",
        ),
        Metric(
            name=f"{label}.coherence_rank",
            value=found.rank,
            null=found.rank_null,
            about="Spearman's rho of dimension and coherence; below 0 where low-dimensional points cluster",
        ),
    ]


def _mean(name: str, part: Local, about: str) -> Metric:
    return Metric(name=name, value=float(part.score_N.mean()), null=float(part.null_N.mean()), about=f"mean {about}")


def _space_metrics(label: str, space: Space, config: Config) -> list[Metric]:
    """Every null is a Gaussian of the same mean and covariance, but for the error: there, random neighbours."""
    tau, k = config.dimension.tau, config.dimension.k
    abouts = {
        "two_nn": "dimension by TwoNN",
        "likelihood": f"dimension by maximum likelihood, k = {config.k}",
        "participation": f"median participation ratio of the spectra at k = {k}",
    }
    return [
        Metric(
            name=f"{label}.dimension",
            value=_median(space.dimension_Q),
            null=_median(space.control_Q),
            about=f"median components for {tau:.1%} of the variance of {k} neighbours; at most {space.ceiling}",
        ),
        *(
            Metric(name=f"{label}.{name}", value=found, null=null, about=abouts[name])
            for name, (found, null) in space.cross_checks.items()
        ),
        Metric(
            name=f"{label}.error",
            value=float(space.error_N.mean()),
            null=space.random_error,
            about=f"share of the variance that {config.k} neighbours do not rebuild",
        ),
        Metric(name=f"{label}.mean_cosine", value=space.mean_cosine, about="of two different points"),
    ]


def _notes(config: Config, chosen: Chosen, spaces: Sequence[Space]) -> list[str]:
    n = len(chosen.keys)
    counts = ", ".join(f"{found:,} in {space.name}" for found, space in zip(chosen.found, spaces, strict=True))
    shared = f", {chosen.shared:,} in both" if len(spaces) == 2 else ""
    notes = [
        f"Points are {_POINTS[type(config.points)]}: {counts}{shared}; {n:,} used, sha256 {chosen.sha256}.",
        f"Neighbours by {config.metric}; dimension at {len(spaces[0].queries_Q):,} points.",
    ]
    for space in spaces:
        if space.saturated:
            notes.append(
                f"{space.name} is saturated: with dimension.k = {config.dimension.k} no dimension above "
                f"{space.ceiling} can be found in width {space.x_ND.shape[1]}; raise dimension.k above the width."
            )
    if 2 * config.dimension.k > n:
        notes.append(
            f"A neighbourhood of {config.dimension.k} holds most of the {n:,} points: its dimension is that of the "
            "whole set rather than of a neighbourhood."
        )
    return notes


def _median(values_Q: Tensor) -> float:
    return float(np.median(values_Q.cpu().numpy()))
