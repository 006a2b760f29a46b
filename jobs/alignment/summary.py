"""What the job says it found: the headline, the metrics with their nulls, the remarks."""

from collections.abc import Iterator

from jobs.alignment.config import Config
from jobs.alignment.grid import WIDEST, Cell
from jobs.alignment.maps import map_name
from jobs.alignment.rows import Rows
from jobs.alignment.study import KS, SVCCA_VARIANCE, Mapped, Study
from jobs.core.context import Metric, Report


def report(config: Config, rows: Rows, chosen: Cell, found: Study, names: tuple[str, str]) -> Report:
    """The report on the chosen pair of sites; the whole grid is in its table."""
    best = found.maps[chosen.best]
    held_out, r2 = best.held_out, best.held_out.judged.r2
    headline = (
        f"{names[0]} of {config.source} to {names[1]} of {config.target}: {map_name(best.kind)} explains {r2:.0%} of "
        f"the held-out variance (token identity {found.token.judged.r2:.0%}, permuted rows "
        f"{best.null.judged.r2:.1%}) and {held_out.retrieval[1]:.0%} of rows find their own among "
        f"{found.n_sampled:,}; CKA {chosen.cka:.2f}"
    )
    metrics = [
        metric for mapped in (best, *(m for m in found.maps if m is not best)) for metric in _of_map(mapped, found)
    ]
    return Report(headline=headline, metrics=(*metrics, *_of_pair(chosen, found)), notes=_notes(rows, found))


def _of_map(mapped: Mapped, found: Study) -> Iterator[Metric]:
    name, rows, null = map_name(mapped.kind), mapped.held_out, mapped.null
    yield Metric(
        name=f"{name} R2",
        value=rows.judged.r2,
        null=null.judged.r2,
        about="share of the variance of test rows explained, all dimensions together; null: fitted to permuted rows",
    )
    for k in KS:
        yield Metric(
            name=f"{name} retrieval@{k}",
            value=rows.retrieval[k],
            null=null.retrieval[k],
            about=f"own row among the {k} nearest of {found.n_sampled:,} by cosine; chance {_chance(k, found):.2%}",
        )
    yield Metric(
        name=f"{name} median R2",
        value=rows.judged.median_r2,
        null=null.judged.median_r2,
        about="the median target dimension's own R2",
    )
    yield Metric(
        name=f"{name} cosine",
        value=rows.cosine,
        null=null.cosine,
        about="mean cosine of mapped and target row, both about the training mean",
    )
    yield Metric(
        name=f"{name} norm ratio",
        value=rows.judged.norm_ratio,
        about="root mean square norm of mapped over target rows, about the training mean; below 1 is shrinkage",
    )
    yield Metric(
        name=f"{name} rank", value=mapped.rank, about=f"of the map; effective rank {mapped.effective_rank:.1f}"
    )


def _of_pair(chosen: Cell, found: Study) -> Iterator[Metric]:
    yield Metric(
        name="token identity R2",
        value=found.token.judged.r2,
        about="baseline: each test row predicted by the training mean of its source token's id",
    )
    for k in KS:
        yield Metric(name=f"token identity retrieval@{k}", value=found.token.retrieval[k], null=_chance(k, found))
    yield Metric(name="CKA", value=chosen.cka, null=found.null_cka, about="debiased linear CKA over all matched rows")
    yield Metric(
        name=f"CKA without {WIDEST}",
        value=chosen.cka_without_widest,
        about=f"linear CKA without each side's {WIDEST} widest principal components",
    )
    yield Metric(
        name="mean CCA",
        value=float(found.correlations_K.mean()),
        null=float(found.null_correlations_K.mean()),
        about=f"mean of {len(found.correlations_K)} canonical correlations on test rows",
    )
    yield Metric(
        name="SVCCA",
        value=found.svcca,
        null=found.null_svcca,
        about=f"the same between the principal components that keep {SVCCA_VARIANCE:.0%} of the variance",
    )


def _chance(k: int, found: Study) -> float:
    return min(1.0, k / found.n_sampled)


def _notes(rows: Rows, found: Study) -> tuple[str, ...]:
    split = rows.split
    notes = [
        *rows.matched.notes,
        f"rows: {split.train.sum():,} to train, {split.validation.sum():,} to validate, {split.test.sum():,} to test, "
        "split by document",
        f"the null is fitted to {found.n_null:,} training rows with their targets permuted, for this pair of sites",
    ]
    if len(rows.source) * len(rows.target) > 1:
        notes.append(
            "shown in depth is the pair of sites whose best map leads token identity by most on validation documents"
        )
    for mapped in found.maps:
        if mapped.at_edge:
            notes.append(f"the ridge penalty {mapped.fitted.penalty:g} is at the end of the path: widen penalties")
    return tuple(notes)
