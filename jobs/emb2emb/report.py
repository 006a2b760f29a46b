"""What an `emb2emb` job says it found."""

from collections.abc import Iterator

import pyarrow as pa
import torch

from jobs.alignment.study import KS, Found
from jobs.core.context import Metric, Report
from jobs.core.vocabulary import Shared
from jobs.emb2emb.config import Config
from jobs.emb2emb.hidden import States
from jobs.emb2emb.study import Judge, Mapped, Tables


def report(
    config: Config, shared: Shared, tables: Tables, found: list[Mapped], hidden: States | None, judged: Judge
) -> Report:
    """The maps in the order in which they were asked for; the first one makes the headline."""
    first = found[0]
    r2, null = first.held_out.judged.r2, first.null.judged.r2
    headline = (
        f"{config.site} of {config.source} to {config.target}: {first.name} explains {r2:.0%} of held-out tokens' "
        f"vectors (permuted {null:.0%}), and {first.held_out.retrieval[10]:.0%} of {judged.n_candidates:,} find their "
        f"own among the nearest 10 (permuted {first.null.retrieval[10]:.1%})"
    )
    metrics = [metric for mapped in found for metric in _of_map(mapped, judged)]
    return Report(
        headline=headline,
        metrics=(*metrics, *_of_states(hidden)),
        notes=tuple(_notes(config, shared, tables, found, hidden)),
    )


def maps_table(found: list[Mapped]) -> pa.Table:
    """A line for every map and one for its null."""
    lines = []
    for mapped in found:
        extra = {"rank": mapped.rank, "chosen": mapped.remark}
        lines.append({"map": mapped.name, "fitted_to": "rows", **_scores(mapped.held_out), **extra})
        lines.append({"map": mapped.name, "fitted_to": "permuted rows", **_scores(mapped.null)})
    return pa.Table.from_pylist(lines)


def singular_table(found: list[Mapped]) -> pa.Table:
    """A line for every singular value of every map."""
    lines = [
        {"map": mapped.name, "place": place, "value": value}
        for mapped in found
        for place, value in enumerate(torch.linalg.svdvals(mapped.fitted.M_ST).tolist())
    ]
    return pa.Table.from_pylist(lines)


def _scores(found: Found) -> dict[str, float]:
    return {
        "r2": found.judged.r2,
        "cosine": found.cosine,
        **{f"retrieval_at_{k}": share for k, share in found.retrieval.items()},
        "norm_ratio": found.judged.norm_ratio,
    }


def _of_map(mapped: Mapped, judged: Judge) -> Iterator[Metric]:
    name, held_out, null = mapped.name, mapped.held_out, mapped.null
    yield Metric(
        name=f"{name} R2",
        value=held_out.judged.r2,
        null=null.judged.r2,
        about="1 - residual / total sum of squares of held-out tokens, the total about their own mean",
    )
    for k in KS:
        yield Metric(
            name=f"{name} retrieval@{k}",
            value=held_out.retrieval[k],
            null=null.retrieval[k],
            about=f"own row among the {k} nearest by cosine of {judged.n_candidates:,} held-out tokens; "
            f"chance {k / judged.n_candidates:.2%}",
        )
    yield Metric(
        name=f"{name} norm ratio",
        value=held_out.judged.norm_ratio,
        null=null.judged.norm_ratio,
        about="root mean square norm of mapped over native vectors; below 1 is shrinkage",
    )
    yield Metric(name=f"{name} rank", value=mapped.rank, about="of the matrix; the smaller width at most")


def _of_states(hidden: States | None) -> Iterator[Metric]:
    if hidden is not None:
        yield Metric(
            name="hidden R2 of states",
            value=hidden.held_out.r2,
            null=hidden.null.r2,
            about="of the map of hidden states on rows of held-out documents; null: fitted to permuted rows",
        )


def _notes(config: Config, shared: Shared, tables: Tables, found: list[Mapped], hidden: States | None) -> Iterator[str]:
    yield f"{shared.remark}."
    parts = [int(mask.sum()) for mask in (tables.split.train, tables.split.validation, tables.split.test)]
    about = "about the tables' means" if config.center else "about the origin, without a bias"
    yield (
        f"Fitted {about} to {parts[0] + parts[1]:,} tokens, of which {parts[1]:,} chose penalties and ranks; "
        f"{parts[2]:,} are held out."
    )
    if config.fold is not None:
        yield "The gains of the final norms are folded into both tables."
    chosen = [f"{mapped.name} {mapped.remark}" for mapped in found if mapped.remark]
    if chosen:
        yield f"Chosen on validation tokens: {', '.join(chosen)}."
    if parts[0] + parts[1] < tables.x_NS.shape[1]:
        yield "There are fewer tokens to fit to than the source has dimensions: least squares fits them all exactly."
    if hidden is not None:
        yield f"The map of hidden states was fitted to {hidden.n_rows:,} matched rows."
        yield from hidden.notes
