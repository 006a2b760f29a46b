"""What a run leaves for people: the report, its tables and its figures.

F features, V values of a label.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np
import pyarrow as pa

from jobs.core.context import Context, Metric, Report
from jobs.sae import figures
from jobs.sae.anatomy import stability_metrics
from jobs.sae.coder import Coder
from jobs.sae.config import Config
from jobs.sae.effects import Effects, effect_metrics
from jobs.sae.examples import contexts_table
from jobs.sae.features import FEW_VALUES, FEWEST_DOCUMENTS
from jobs.sae.figures import Card
from jobs.sae.interpret import TokenJudge
from jobs.sae.logit_effects import unembedding
from jobs.sae.measure import PCA_ROWS, Found
from jobs.sae.page import page
from jobs.sae.portraits import Portraits, features_table, portray, readable
from jobs.sae.rows import Rows
from jobs.sae.stability import Stability
from jobs.sae.train import Point
from jobs.sae.windows import shown_tokens
from storage.index import TokenIndex

_CARDS = 8
"""Features in the figure of contexts: half of them the best tellers of labels, where there are labels."""
_ABOUT_FVU = (
    "squared error over variance about the per-dimension mean; null: a random dictionary, as many features per token"
)
_ABOUT_PURITY = "share of a feature's strongest tokens that are one token; null: tokens drawn at random"
_ABOUT_AUROC = "best single feature for each value of the label, mean over values; null: shuffled labels"


def report(
    config: Config,
    rows: Rows,
    found: Found,
    portraits: Portraits,
    lost: Effects | None = None,
    twins: Sequence[Stability] = (),
    previous: str = "",
) -> Report:
    """The numbers with their nulls, and what a reader must know of them.

    `lost` is what the coder costs the model, `twins` are the stability of runs, plain and about the mean atom;
    `previous` is what training went on from.
    """
    tally, pure = found.tally, found.pure
    dead = float((tally.density == 0).mean())
    metrics = [
        Metric(name="fvu", value=tally.fvu, null=found.random_fvu, about=_ABOUT_FVU),
        Metric(name="pca_fvu", value=found.pca_fvu, about=f"the same of PCA with {found.k} directions"),
        Metric(name="l0", value=tally.l0, about="active features per token"),
        Metric(name="dead", value=dead, about="share of features that fire on no held-out token"),
    ]
    if found.linear_fvu is not None:
        metrics.append(
            Metric(name="linear_fvu", value=found.linear_fvu, about="the same of an affine map, input to target")
        )
    if len(pure.shares_F):
        values = float(pure.shares_F.mean()), float(pure.null_F.mean())
        metrics.append(Metric(name="purity", value=values[0], null=values[1], about=_ABOUT_PURITY))
    for telling in found.tellings:
        name, value = f"auroc.{telling.label}", float(telling.auroc_V.mean())
        metrics.append(Metric(name=name, value=value, null=telling.null, about=_ABOUT_AUROC))
    notes = (*_notes(config, rows, found, previous), *found.remarks, *found.knowledge.notes)
    metrics += [*(effect_metrics(lost) if lost else ()), *readable(portraits), *found.knowledge.telling, *found.shape]
    if twins:
        metrics += stability_metrics(*twins)
        notes += (*_of_twins(config, previous), *twins[0].remarks)
    return Report(headline=_headline(config, found, dead), metrics=tuple(metrics), notes=notes)


def _of_twins(config: Config, previous: str) -> tuple[str, ...]:
    """What stability is of."""
    seeds = f"{config.seed} to {config.seed + config.twins}"
    if previous:
        return (
            f"Stability is over a coder that went on from {previous} and new ones of seeds {seeds.partition(' ')[2]} "
            "that saw the new rows alone: it says less than that of runs that are alike.",
        )
    return (
        f"Stability is over the coders of seeds {seeds}, which saw the same rows, each in an order of its own. A coder "
        "that starts from K-means is the control that an archetypal one wants beside it.",
    )


def _headline(config: Config, found: Found, dead: float) -> str:
    tally, pure = found.tally, found.pure
    readable = ""
    if len(pure.shares_F):
        readable = (
            f"; a feature's strongest tokens are one token {pure.shares_F.mean():.0%} of the time "
            f"(chance {pure.null_F.mean():.0%})"
        )
    return (
        f"{tally.l0:.1f} of {config.width} features per token explain {1 - tally.fvu:.1%} of the held-out variance of "
        f"{config.site} (random dictionary {1 - found.random_fvu:.1%}, PCA {1 - found.pca_fvu:.1%}); "
        f"{dead:.1%} never fire{readable}"
    )


def _notes(config: Config, rows: Rows, found: Found, previous: str) -> tuple[str, ...]:
    n_training = int(rows.training_N.sum())
    start = (
        f"Went on from the weights and the scale of {previous}, on rows that it did not see; Adam's state began anew."
        if previous
        else "Scale and starting bias come from the moments of all rows; no other number of held-out rows reaches "
        "training."
    )
    trained = (
        f"Trained on {n_training} rows, {config.epochs} times; measured on {found.tally.n} rows of other documents."
    )
    notes = [
        *([f"Of {config.foreign}, measured on {found.tally.n} rows."] if config.foreign else [trained, start]),
        f"PCA is fitted to {min(n_training, PCA_ROWS)} training rows; the random dictionary's scale to held-out ones.",
        "A feature that fires on no held-out row counts as dead, however rarely it may fire elsewhere.",
        f"Purity is over the {len(found.pure.shares_F)} features with {config.n_examples} examples.",
    ]
    told = {telling.label for telling in found.tellings}
    if left := [name for name in rows.tokens.label_names if name not in told]:
        notes.append(
            f"No AUROC for {', '.join(left)}: it takes text labels of {FEW_VALUES.start} to {FEW_VALUES.stop - 1} "
            f"values with at least {FEWEST_DOCUMENTS} held-out documents each; raise `held_out` or merge rare values."
        )
    if found.tellings:
        notes.append(
            "AUROC is of a feature's mean over a document; features are chosen on half of the held-out documents and "
            "tested on the other half."
        )
    return tuple(notes)


def leave(config: Config, ctx: Context, rows: Rows, coder: Coder, history: Sequence[Point], found: Found) -> Portraits:
    """Keep the tables, the figures and the page; what features are to a reader."""
    portraits = _portraits(config, ctx, rows, coder, found)
    contexts, density_F = contexts_table(portraits.examples, portraits.chosen), found.tally.density
    ctx.table("features", features_table(portraits, density_F, found.pure))
    ctx.table("contexts", contexts)
    ctx.table("concepts", found.knowledge.table())
    ctx.page("features", page(portraits, f"{config.site} of {config.cache}", density_F, found.pure))
    if history:
        ctx.table("history", pa.Table.from_pylist([asdict(point) for point in history]))
        ctx.figure(
            "training",
            figures.training(history, found.tally.fvu, found.random_fvu, found.pca_fvu, found.k),
            "Fraction of variance unexplained as training went; grey, what a random dictionary of the same width and "
            "PCA leave with as many numbers per token.",
        )
    ctx.figure(
        "features",
        figures.behaviour(density_F, found.pure, found.tally.n),
        "How often features fire on held-out tokens, and how far the strongest tokens of a feature are one token; "
        "grey, the same of tokens drawn at random.",
    )
    ctx.figure(
        "contexts",
        figures.contexts(_cards(portraits.chosen, found, rows.tokens), contexts),
        "Strongest held-out tokens of features in their contexts: orange, the best teller of a label's value; blue, "
        "drawn at random among the live ones.",
    )
    return portraits


def _portraits(config: Config, ctx: Context, rows: Rows, coder: Coder, found: Found) -> Portraits:
    atoms_FE = coder.atoms_FD / coder.scale_E
    return portray(
        found.observed,
        chosen(config, found),
        atoms_FE,
        rows.held_H,
        lambda rows_B: coder.encode(rows.at(rows_B).x_BD),
        unembedding(ctx.cache(config.unembed)) if config.unembed else None,
        TokenJudge(),
    )


def chosen(config: Config, found: Found) -> dict[int, str]:
    """The features whose examples are kept, and why: the best teller of each label's value, then a random sample."""
    tellers = []
    for telling in found.tellings:
        order_V = np.argsort(-telling.auroc_V, kind="stable")
        for place, v in enumerate(order_V):
            reason = f"{telling.label} = {telling.values[v]}, AUROC {telling.auroc_V[v]:.2f}"
            tellers.append((place, -telling.auroc_V[v], int(telling.features_V[v]), reason))
    why: dict[int, list[str]] = {}
    for _, _, feature, reason in sorted(tellers):  # the best of each label, then the second best of each
        if found.tally.density[feature] > 0:
            why.setdefault(feature, []).append(reason)
    alive = np.flatnonzero(found.tally.density)
    sample = np.random.default_rng(config.seed).permutation(alive)[: config.n_features].tolist()
    return {feature: "; ".join(why.get(feature, [])) for feature in [*why, *sample]}


def _cards(shown: Mapping[int, str], found: Found, tokens: TokenIndex) -> list[Card]:
    tellers = [feature for feature, why in shown.items() if why][: _CARDS // 2]
    sampled = [feature for feature, why in shown.items() if not why][: _CARDS - len(tellers)]
    return [Card(feature, _about(feature, found, tokens), shown[feature]) for feature in tellers + sampled]


def _about(feature: int, found: Found, tokens: TokenIndex) -> str:
    """How often a feature fires, and its most common strongest token."""
    rows, _ = found.observed.leaders.of(feature)
    words, counts = np.unique(np.array(shown_tokens(tokens, rows)), return_counts=True)
    most = int(counts.argmax())
    often = f"fires on {found.tally.density[feature]:.2%} of tokens"
    return f'{often}; {counts[most]} of {len(rows)} strongest: "{words[most].strip()}"'
