"""What is linearly readable, and where: probes for every target at every site, each stored row read once.

Ridge or logistic probes of label columns and token properties; documents are split, never rows; penalties and
temperatures are chosen on validation documents, everything reported is measured on test documents, beside the same
probe fitted to labels shuffled between documents (Hewitt and Liang 2019 on why a probe needs a control).

N examples, H held-out examples.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from jobs.core.context import Context, Metric, Read, Report
from jobs.core.splits import Split, split_documents
from jobs.probe import figures, tables
from jobs.probe.evaluate import intervals
from jobs.probe.examples import EveryToken, Examples, LastToken, MeanToken, Pooling, draw
from jobs.probe.fit import Logistic, Method, Ridge, fit_site, make_groups
from jobs.probe.groups import group_names
from jobs.probe.judge import Held, Probe, judge_site
from jobs.probe.targets import Labels, Target, is_property, name, numeric, read_labels
from jobs.probe.vectors import Vectors, load, vectors
from storage.errors import InputError
from storage.index import TokenIndex
from storage.site import Site
from storage.value import Value

__all__ = ["Config", "EveryToken", "LastToken", "Logistic", "MeanToken", "Ridge", "Vectors", "load", "reads", "run"]


Ends = Mapping[tuple[str, Site], tuple[float, float]]
ByTarget = Mapping[str, Sequence[Probe]]

_SPANS = 20
"""Spans of positions, at most, evenly spaced in their logarithm."""
_ABOUT = {
    "accuracy": "share of right answers",
    "balanced_accuracy": "share of right answers, mean over classes",
    "auroc": "area under the ROC curve, each class against the rest",
    "log_loss": "mean -log p of the label in nats, after the temperature",
    "ece_uncalibrated": "expected calibration error as fitted",
    "ece": "expected calibration error after the temperature",
    "r2": "1 - squared error / variance",
    "rmse": "root mean squared error, in the label's unit",
}


class Config(Value):
    """What to probe for, where, and how."""

    cache: str
    """The cache to read."""
    sites: tuple[Site, ...] = ()
    """Sites to probe; none means every site of the cache."""
    targets: tuple[Target, ...] = ()
    """Label columns by name, `{ kind = "number", name = ... }` to regress one, or properties of the token:
    `position`, `token_id`, `length`, `capitalised`, `word_start` as `kind`; none means every label column."""
    group: str | None = None
    """A label column (a speaker, a source) whose equal values stay on one side of the split; without it documents do.
    Labels are shuffled and intervals drawn over the same groups."""
    pooling: Pooling = EveryToken()
    """What an example is: every token, or the last or mean state of a document."""
    method: Method = Ridge()
    """How probes are fitted."""
    max_rows: int = 262_144
    """Examples drawn evenly at most; held-out ones (all of them for `logistic`) are kept in memory as float32."""
    max_classes: int = 64
    """A label with more classes is refused."""
    validation: float = 0.15
    """Share of documents that choose penalties and temperatures."""
    test: float = 0.25
    """Share of documents that everything is measured on."""
    shuffles: int = 5
    """Times that labels are shuffled between documents for the null."""
    seed: int = 0
    """Of the split, the draw, the shuffles and the bootstrap."""

    def __post_init__(self) -> None:
        if self.max_rows < 100 or self.max_classes < 2 or self.shuffles < 0:
            raise ValueError("`max_rows` must be at least 100, `max_classes` at least 2, `shuffles` at least 0")
        if not (self.validation > 0 and self.test > 0 and self.validation + self.test < 1):
            raise ValueError(
                f"`validation` ({self.validation}) and `test` ({self.test}) must be above 0 and leave a share to train"
            )
        if not self.method.penalties or min(self.method.penalties) <= 0:
            raise ValueError(f"`method.penalties` must be above 0, found {self.method.penalties}")
        names = [name(target) for target in self.targets]
        if len(set(names)) < len(names):
            raise ValueError(f"`targets` names one twice: {', '.join(names)}")
        if not isinstance(self.pooling, EveryToken) and any(map(is_property, self.targets)):
            raise ValueError("`targets` has a property of the token, so `pooling` must be `every_token`")
        if isinstance(self.method, Logistic) and any(map(numeric, self.targets)):
            raise ValueError("`targets` has a number, so `method` must be `ridge`: `logistic` tells classes apart")


def reads(config: Config) -> tuple[Read, ...]:
    """The one cache, and the sites to probe."""
    return (Read(cache=config.cache, sites=config.sites),)


def run(config: Config, ctx: Context) -> Report:
    """Fit and judge all probes, one site after the other."""
    cache = ctx.cache(config.cache)
    tokens = cache.tokens
    sites = sorted(set(config.sites or cache.sites))
    n_rows = min(cache.site(site).shape[0] for site in sites)
    names_D = group_names(config.group, tokens)
    split = split_documents(names_D, validation=config.validation, test=config.test, seed=config.seed)
    owners_D = np.unique(names_D.astype(str), return_inverse=True)[1]
    examples = draw(tokens, n_rows, config.pooling, config.max_rows, config.seed)
    parts = split.at(examples.documents_N)
    targets = _read_targets(config, tokens, examples, parts)
    owners_N = owners_D[examples.documents_N]
    groups = make_groups(targets, owners_N, config.shuffles, config.seed)
    held, edges = _held(config, tokens, examples, owners_N, parts)
    found: list[Probe] = []
    exported: dict[str, np.ndarray] = {}
    for site in sites:
        fitted = fit_site(cache.site(site), examples, parts, groups, config.method, ctx.device)
        exported |= vectors(site, fitted)
        found += judge_site(site, fitted, held, parts.train, probabilistic=isinstance(config.method, Logistic))
    spans = intervals([probe.sums for probe in found], [probe.statistic for probe in found], config.seed)
    ends = {(probe.labels.name, probe.site): span for probe, span in zip(found, spans, strict=True)}
    by_target = {labels.name: [probe for probe in found if probe.labels is labels] for labels in targets}
    best = [max(mine, key=lambda probe: probe.validation) for mine in by_target.values()]
    ctx.save("vectors", exported)
    _leave_numbers(ctx, found, ends, edges, targets, parts)
    _leave_figures(ctx, by_target, best, ends, edges)
    notes = _notes(config, examples, parts, targets)
    return Report(headline=_headline(best), metrics=_metrics(best, ends), notes=notes)


def _read_targets(config: Config, tokens: TokenIndex, examples: Examples, parts: Split) -> list[Labels]:
    wanted = config.targets or tokens.label_names
    if not wanted:
        raise InputError(
            f"probe {config.cache!r} wants label columns and its corpus has none: "
            'name properties of the token instead, say targets = [{ kind = "position" }]'
        )
    targets = [read_labels(target, tokens, examples, parts, config.max_classes) for target in wanted]
    numbers = [labels.name for labels in targets if not labels.classes]
    if numbers and isinstance(config.method, Logistic):
        raise InputError(
            f"method 'logistic' tells classes apart; {', '.join(numbers)} holds numbers: "
            "leave it out of `targets`, or use ridge"
        )
    return targets


def _held(
    config: Config, tokens: TokenIndex, examples: Examples, owners_N: np.ndarray, parts: Split
) -> tuple[Held, np.ndarray]:
    """The held-out examples, and the edges of the spans of positions they are counted in."""
    at_H = np.flatnonzero(~parts.train)
    documents_H = owners_N[at_H]
    of_test = np.unique(documents_H[parts.test[at_H]])
    owner_H = np.minimum(np.searchsorted(of_test, documents_H), len(of_test) - 1)
    bin_H, edges = None, np.empty(0, np.int64)
    if isinstance(config.pooling, EveryToken):
        positions_H = tokens.positions(examples.rows_R[at_H])
        edges = np.unique(np.geomspace(1, positions_H.max() + 2, _SPANS + 1).astype(np.int64))
        edges[0] = min(edges[0], positions_H.min())
        bin_H = np.clip(np.searchsorted(edges, positions_H, side="right") - 1, 0, len(edges) - 2)
    return Held(at_H, parts.test[at_H], owner_H, len(of_test), bin_H), edges


def _leave_numbers(
    ctx: Context, found: Sequence[Probe], ends: Ends, edges: np.ndarray, targets: Sequence[Labels], parts: Split
) -> None:
    """The tables, and directions `<site>/<target>/weight` [outputs, width] and `/bias` for states as stored."""
    arrays = {}
    for probe in found:
        key = f"{probe.site}/{probe.labels.name}"
        arrays[f"{key}/weight"], arrays[f"{key}/bias"] = probe.direction
    ctx.save("directions", arrays)
    ctx.table("metrics", tables.metrics(found, ends))
    ctx.table("probes", tables.probes(found))
    ctx.table("outputs", tables.outputs(targets, parts))
    ctx.table("calibration", tables.calibration(found))
    ctx.table("confusion", tables.confusion(found))
    ctx.table("positions", tables.positions(found, edges))


def _leave_figures(ctx: Context, by_target: ByTarget, best: Sequence[Probe], ends: Ends, edges: np.ndarray) -> None:
    ctx.figure(
        "sites",
        figures.over_sites(by_target, ends),
        "Each target at every site on documents the probes never saw, with 95% intervals over documents; grey is "
        "what the same fit gives for labels shuffled between documents, dotted the commonest class.",
    )
    over_positions = figures.over_positions(by_target, edges)
    if over_positions:
        caption = (
            "When in a text a document's label becomes readable: the probe by how many tokens were read, per site."
        )
        ctx.figure("positions", over_positions, caption)
    with_classes = [probe for probe in best if probe.labels.classes]
    if with_classes:
        ctx.figure(
            "calibration",
            figures.calibration(with_classes),
            "How often an answer is right against how sure the probe is of it; on the diagonal, confidence can be "
            "taken at its word. The temperature was fitted on validation documents.",
        )
        caption = "Which classes are taken for which by each target's best probe, as shares of each row."
        ctx.figure("confusion", figures.confusions(with_classes), caption)


def _headline(best: Sequence[Probe]) -> str:
    """The three targets furthest above their null, each at its best site."""
    shown = sorted(
        best, key=lambda probe: probe.null.get(probe.headline, (0.0, 0.0))[0] - probe.metrics[probe.headline]
    )
    pieces = []
    for probe in shown[:3]:
        null = f" (shuffled {probe.null[probe.headline][0]:.2f})" if probe.null else ""
        word = {"accuracy": "accuracy", "r2": "R²"}[probe.headline]
        pieces.append(f"{probe.labels.name} {word} {probe.metrics[probe.headline]:.2f}{null} at {probe.site}")
    return "Linear probes on unseen documents: " + "; ".join(pieces)


def _metrics(best: Sequence[Probe], ends: Ends) -> tuple[Metric, ...]:
    """For each target the headline metric at its best site, then the rest."""
    leading: list[Metric] = []
    rest: list[Metric] = []
    for probe in best:
        low, high = ends[probe.labels.name, probe.site]
        base = f"; commonest class {probe.baseline['accuracy']:.3f}" if probe.baseline else ""
        for measure, value in probe.metrics.items():
            null = probe.null[measure][0] if measure in probe.null else None
            first = measure == probe.headline
            more = f"; 95% interval {low:.3f} to {high:.3f}{base}" if first else ""
            about = f"{_ABOUT[measure]}, {probe.site}{more}"
            metric = Metric(name=f"{probe.labels.name}.{measure}", value=value, null=null, about=about)
            (leading if first else rest).append(metric)
    return (*leading, *rest)


def _owners(config: Config) -> str:
    return "documents" if config.group is None else f"groups of one {config.group}"


def _notes(config: Config, examples: Examples, parts: Split, targets: Sequence[Labels]) -> tuple[str, ...]:
    """What a reader must know to trust the numbers."""
    what = "rows" if isinstance(config.pooling, EveryToken) else "documents"
    counts = [len(np.unique(examples.documents_N[mask])) for mask in (parts.train, parts.validation, parts.test)]
    notes = [
        f"{len(examples)} of {examples.n_available} {what} ({config.pooling.__struct_config__.tag}); "
        f"{counts[0]} documents to train on, {counts[1]} to choose by, {counts[2]} to measure on.",
        "A target's best site is the best on validation documents; its numbers here are from test documents.",
        f"The null is the mean of {config.shuffles} fits to labels shuffled between {_owners(config)}.",
    ]
    if config.group is not None:
        notes.append(f"Documents of one {config.group} are on one side of the split, and intervals are over these.")
    for labels in targets:
        if labels.left_out:
            lacking = ", ".join(labels.left_out)
            notes.append(f"{labels.name}: {lacking} left out, for want of documents on every side of the split.")
        missing = int((~labels.known_N).sum())
        if missing:
            notes.append(f"{labels.name}: {missing} {what} have no answer and take no part.")
    return tuple(notes)
