"""Examples of features: their strongest rows and a sample from every band, each with the tokens around it.

E examples, W places of a window, M features.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from jobs.sae.contexts import N_BANDS, Entries, joined, rank_in_group
from jobs.sae.detectors import finding_half
from jobs.sae.interpret import Evidence, Excerpt
from jobs.sae.observed import Observed
from jobs.sae.windows import Encode, Sounding, pieces, shown_tokens, sound, windows

BEFORE, AFTER = 12, 8
"""Tokens of a window beside its own."""
STRONGEST = -1
"""In place of a band: chosen for being among the strongest."""
_SILENT = 256
"""Rows at random among which excerpts are looked for where a feature is silent."""
_DRAWN = 40
"""Rows of a feature beside its leaders, at most: as evenly from its bands as they allow."""
_MOST_EXCERPTS = 20
"""Of each kind, for a judge's explanation of a feature to be scored on."""


@dataclass(frozen=True)
class Example:
    """One row at which a feature fires."""

    feature: int
    band: int
    """0 for the half octave of the feature's maximum, 1 for the next, ...; or `STRONGEST`."""
    rank: int
    """Within the band: by strength among the strongest, else in the order of the draw."""
    row: int
    activation: float
    quantile: float
    """Share of the feature's activations that are weaker, to half an octave."""
    document: str
    token: str
    at: int
    """Place of the row in the window."""
    excerpt: Excerpt
    """The window: its tokens, and the feature's activation at each."""

    @property
    def left(self) -> str:
        """The text before the token."""
        own = self.excerpt.tokens[self.at]
        gap = own.removesuffix(self.token) if own.endswith(self.token) else ""  # bytes of a character may have no text
        return "".join(self.excerpt.tokens[: self.at]) + gap

    @property
    def right(self) -> str:
        """The text after the token."""
        return "".join(self.excerpt.tokens[self.at + 1 :])


@dataclass(frozen=True)
class Examples:
    """The examples of some features, and what a judge may be asked of them."""

    of: Mapping[int, tuple[Example, ...]]
    """The strongest first, then band by band."""
    evidence: Mapping[int, Evidence]


def gather(observed: Observed, features_M: np.ndarray, held_H: np.ndarray, encode: Encode) -> Examples:
    """The examples of `features_M`, whose windows are encoded once more to see what the features say in them."""
    found = _chosen(observed, features_M)
    tokens, seed = observed.tokens, observed.seed
    rows_EW = windows(tokens, found.entries.rows_C, BEFORE, AFTER)
    scoring_H = held_H[~finding_half(tokens, held_H, seed)]
    drawn_R = np.random.default_rng(seed).permutation(scoring_H)[:_SILENT]
    rows_RW = windows(tokens, drawn_R, BEFORE, AFTER)
    sounding = sound(np.concatenate([rows_EW, rows_RW]), features_M, encode)
    examples = _examples(observed, found, rows_EW, sounding)
    silent = _Silent.of(observed, rows_RW, sounding)
    finding_E = finding_half(tokens, found.entries.rows_C, seed)
    of, evidence = {}, {}
    for feature in features_M.tolist():
        mine = np.flatnonzero(found.entries.features_C == feature)
        of[feature] = tuple(examples[e] for e in mine)
        shown = tuple(examples[e].excerpt for e in mine if finding_E[e])
        held = mine[~finding_E[mine] & (found.draws_E[mine] >= 0)]
        evenly = held[np.argsort(found.draws_E[held], kind="stable")][:_MOST_EXCERPTS]
        firing = tuple(examples[e].excerpt.tokens for e in evenly)
        evidence[feature] = Evidence(shown, firing, silent.of_feature(feature))
    return Examples(of, evidence)


@dataclass(frozen=True)
class _Chosen:
    """The rows that become examples, by feature: the leaders, then what was drawn from the bands and does not lead."""

    entries: Entries
    bands_E: np.ndarray
    """`STRONGEST` for the leaders."""
    draws_E: np.ndarray
    """Place of each row among those drawn from its band; -1 where it only leads."""


def _chosen(observed: Observed, features_M: np.ndarray) -> _Chosen:
    leaders, drawn = observed.leaders.entries, observed.bands.entries
    leaders = leaders.at(np.isin(leaders.features_C, features_M))
    drawn = drawn.at(np.isin(drawn.features_C, features_M))
    bands_C = observed.bands.band(drawn)
    draws_C = rank_in_group(drawn.features_C * N_BANDS + bands_C)
    evenly_C = np.lexsort((bands_C, draws_C, drawn.features_C))
    kept = np.sort(evenly_C[rank_in_group(drawn.features_C[evenly_C]) < _DRAWN])
    drawn, bands_C, draws_C = drawn.at(kept), bands_C[kept], draws_C[kept]
    pairs = [list(zip(one.features_C.tolist(), one.rows_C.tolist(), strict=True)) for one in (leaders, drawn)]
    draw_of, lead = dict(zip(pairs[1], draws_C.tolist(), strict=True)), set(pairs[0])
    rest = np.array([pair not in lead for pair in pairs[1]], bool)
    draws_E = np.concatenate([np.array([draw_of.get(pair, -1) for pair in pairs[0]], np.int64), draws_C[rest]])
    bands_E = np.concatenate([np.full(len(leaders), STRONGEST), bands_C[rest]])
    return _Chosen(joined([leaders, drawn.at(rest)]), bands_E, draws_E)


def _examples(observed: Observed, chosen: _Chosen, rows_EW: np.ndarray, sounding: Sounding) -> list[Example]:
    tokens, found = observed.tokens, chosen.entries
    quantile_E = observed.bands.quantile(found)
    z_EW = sounding.at(rows_EW, found.features_C[:, None])
    documents_E = tokens.document_ids[tokens.documents(found.rows_C)]
    texts_E = shown_tokens(tokens, found.rows_C)
    ranks: dict[tuple[int, int], int] = {}
    examples = []
    for e, (feature, row, band) in enumerate(
        zip(found.features_C.tolist(), found.rows_C.tolist(), chosen.bands_E.tolist(), strict=True)
    ):
        ranks[feature, band] = rank = ranks.get((feature, band), -1) + 1
        there_W = rows_EW[e] >= 0
        excerpt = Excerpt(tuple(pieces(tokens, rows_EW[e, there_W])), tuple(z_EW[e, there_W].tolist()))
        numbers = float(found.values_C[e]), float(quantile_E[e])
        at = int(there_W[:BEFORE].sum())
        examples.append(Example(feature, band, rank, row, *numbers, str(documents_E[e]), texts_E[e], at, excerpt))
    return examples


@dataclass(frozen=True)
class _Silent:
    """Excerpts at random, and which features fire in them."""

    excerpts: tuple[tuple[str, ...], ...]
    fires_RM: np.ndarray
    features_M: np.ndarray

    @classmethod
    def of(cls, observed: Observed, rows_RW: np.ndarray, sounding: Sounding) -> "_Silent":
        excerpts = tuple(tuple(pieces(observed.tokens, rows_W[rows_W >= 0])) for rows_W in rows_RW)
        fires_MR = [(sounding.at(rows_RW, np.array(feature)) > 0).any(axis=1) for feature in sounding.features_M]
        return cls(excerpts, np.array(fires_MR).reshape(len(sounding.features_M), len(rows_RW)).T, sounding.features_M)

    def of_feature(self, feature: int) -> tuple[tuple[str, ...], ...]:
        """Excerpts in which the feature is silent."""
        fires_R = self.fires_RM[:, np.searchsorted(self.features_M, feature)]
        return tuple(self.excerpts[r] for r in np.flatnonzero(~fires_R)[:_MOST_EXCERPTS])


def contexts_table(examples: Examples, chosen: Mapping[int, str]) -> pa.Table:
    """A line per example; `chosen` says of each feature why it is among them."""
    lines = [
        {
            "feature": one.feature,
            "chosen": chosen[one.feature],
            "band": None if one.band == STRONGEST else one.band,
            "rank": one.rank,
            "row": one.row,
            "activation": one.activation,
            "quantile": one.quantile,
            "left": one.left,
            "token": one.token,
            "right": one.right,
            "document": one.document,
            "window": list(one.excerpt.tokens),
            "activations": list(one.excerpt.activations),
            "at": one.at,
        }
        for feature in chosen
        for one in examples.of[feature]
    ]
    return pa.Table.from_pylist(lines, pa.schema(_CONTEXTS))


_CONTEXTS = {
    "feature": pa.int64(),
    "chosen": pa.string(),
    "band": pa.int32(),
    "rank": pa.int32(),
    "row": pa.int64(),
    "activation": pa.float32(),
    "quantile": pa.float32(),
    "left": pa.string(),
    "token": pa.string(),
    "right": pa.string(),
    "document": pa.string(),
    "window": pa.list_(pa.string()),
    "activations": pa.list_(pa.float32()),
    "at": pa.int32(),
}
