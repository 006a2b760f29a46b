"""Which documents are on which side, and which part of the split they are in.

N examples, D documents.
"""

from dataclasses import dataclass

import numpy as np

from jobs.contrast.config import Config
from jobs.core.splits import Split, split_documents
from jobs.probe.examples import Examples, draw
from jobs.probe.targets import shuffled
from storage.errors import InputError
from storage.index import TokenIndex


@dataclass(frozen=True)
class Sides:
    """The examples of both sides."""

    positive: str
    negative: str
    examples: Examples
    y_N: np.ndarray
    """1 on the positive side, else 0, int64."""
    parts: Split
    place_N: np.ndarray
    """Place of each example's document by its id, so that exchanges know of no order of rows."""
    pair_N: np.ndarray
    """Number of the pair that each example belongs to; -1 for those that are in none with examples of both sides."""
    notes: tuple[str, ...]

    def exchanged(self, rng: np.random.Generator) -> np.ndarray:
        """Sides at random, int64 [N]: turned round within pairs, else shuffled between documents.

        Each part of the split keeps examples of both.
        """
        y_N = self.y_N.copy()
        for mask_N in (self.parts.train, self.parts.validation, self.parts.test):
            y_N[mask_N] = shuffled(self.y_N[mask_N], self.place_N[mask_N], rng)
        turned = rng.random(self.pair_N.max() + 1) < 0.5
        paired_N = self.pair_N >= 0
        y_N[paired_N] = self.y_N[paired_N] ^ turned[self.pair_N[paired_N]]
        return y_N


def choose(config: Config, tokens: TokenIndex, n_rows: int) -> Sides:
    """The examples of the two sides, `max_examples` at most; `InputError` where a side has too few documents."""
    side_D = side_of(config, tokens)
    examples = draw(tokens, n_rows, config.pooling, n_rows, config.seed)
    examples = examples.only(_some(side_D[examples.documents_N] >= 0, config))
    split = split_of(config, tokens)
    _check(config, side_D, split, examples)
    at_N = examples.documents_N
    y_N = side_D[at_N]
    return Sides(
        positive=config.positive,
        negative=config.negative or "all others",
        examples=examples,
        y_N=y_N,
        parts=split.at(at_N),
        place_N=np.unique(tokens.document_ids.astype(str), return_inverse=True)[1][at_N],
        pair_N=np.full(len(y_N), -1) if config.pair is None else _pairs(tokens.label(config.pair)[at_N], y_N),
        notes=_notes(config, side_D, split),
    )


def split_of(config: Config, tokens: TokenIndex) -> Split:
    """Over documents, by their ids, or by what pairs them."""
    ids_D = tokens.document_ids
    if config.pair is not None:
        pairs_D = tokens.label(config.pair)
        ids_D = np.array(
            [one if pair is None else f"pair {pair}" for one, pair in zip(ids_D, pairs_D, strict=True)], object
        )
    return split_documents(ids_D, validation=config.validation, test=config.test, seed=config.seed)


def side_of(config: Config, tokens: TokenIndex) -> np.ndarray:
    """1, 0, or -1 for neither, int64 [D]."""
    values = [None if value is None else str(value) for value in tokens.label(config.label)]
    other = {value for value in values if value is not None} - {config.positive}
    negative = other if config.negative is None else {config.negative}
    for name in (config.positive, *([] if config.negative is None else [config.negative])):
        if name not in values:
            known = ", ".join(sorted({value for value in values if value is not None})[:12])
            raise InputError(f"no document has {config.label} = {name!r}; the values are {known or 'none'}: name one")
    if not negative:
        raise InputError(
            f"every document has {config.label} = {config.positive!r}: a direction wants documents of another side"
        )
    return np.array([1 if value == config.positive else 0 if value in negative else -1 for value in values], np.int64)


def _some(keep_N: np.ndarray, config: Config) -> np.ndarray:
    places = np.flatnonzero(keep_N)
    if len(places) > config.max_examples:
        places = np.random.default_rng(config.seed).choice(places, config.max_examples, replace=False)
    chosen_N = np.zeros(len(keep_N), bool)
    chosen_N[places] = True
    return chosen_N


def _check(config: Config, side_D: np.ndarray, split: Split, examples: Examples) -> None:
    """Each side needs a document in every part of the split."""
    present_D = np.zeros(len(side_D), bool)
    present_D[examples.documents_N] = True
    for side, name in ((1, config.positive), (0, config.negative or f"not {config.positive}")):
        mine_D = (side_D == side) & present_D
        counts = [int((mine_D & mask).sum()) for mask in (split.train, split.validation, split.test)]
        if min(counts) == 0:
            raise InputError(
                f"{config.label} = {name} has {int(mine_D.sum())} documents with states: {counts[0]} to fit, "
                f"{counts[1]} to choose, {counts[2]} held out; each part needs one: harvest more of them, or take "
                "another seed"
            )


def _pairs(values_N: np.ndarray, y_N: np.ndarray) -> np.ndarray:
    """A number for each value that examples of both sides have, -1 for all others."""
    sides: tuple[set[object], set[object]] = (set(values_N[y_N == 0]), set(values_N[y_N == 1]))
    both = sorted((sides[0] & sides[1]) - {None}, key=str)
    numbers = {value: number for number, value in enumerate(both)}
    return np.array([numbers.get(value, -1) for value in values_N], np.int64)


def _notes(config: Config, side_D: np.ndarray, split: Split) -> tuple[str, ...]:
    counts = [f"{int((side_D == side).sum()):,} documents {name}" for side, name in ((1, "positive"), (0, "negative"))]
    held = int(((side_D >= 0) & split.test).sum())
    lost = int((side_D < 0).sum())
    return (
        f"{' and '.join(counts)}, of which {held:,} are held out, by a hash of {config.pair or 'their ids'}."
        + (f" {lost:,} of neither side were left out." if lost else ""),
        "Every vector is scaled to the norm of the mean difference at its site, and points to the positive side.",
    )
