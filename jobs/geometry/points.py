"""What a point is, which points two caches share, and their hidden states.

Shapes: N points, R rows of a cache, V token ids, C documents, D width.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple, assert_never

import numpy as np
import torch
from msgspec import Meta
from torch import Tensor

from jobs.core.tensors import as_tensor
from jobs.core.vocabulary import drawn, is_vocabulary, shared, vocabulary
from jobs.geometry.names import named_tokens
from storage.errors import InputError
from storage.index import TokenIndex
from storage.reader import Activations
from storage.value import Value

BLOCK = 8192
"""Rows of a cache that are read at a time."""


class Rows(Value, tag_field="kind", tag="rows"):
    """A point is one token in its place; caches share those that end at the same character of the same document."""


class TokenMeans(Value, tag_field="kind", tag="token_means"):
    """A point is a token id: the mean of its hidden states. A vocabulary cache has one state for each."""

    min_count: Annotated[int, Meta(ge=1)] = 1
    """Token ids that occur less often, in rows, are left out."""


class DocumentMeans(Value, tag_field="kind", tag="document_means"):
    """A point is a document: the mean of its tokens' hidden states."""


Points = Rows | TokenMeans | DocumentMeans


@dataclass(frozen=True)
class Source:
    """One site of one cache, with the tokens of its rows."""

    name: str
    """What figures and messages call it."""
    activations: Activations
    tokens: TokenIndex
    skip: int
    """Positions at the start of each sequence whose rows are passed over."""
    tokenizer: str = ""
    """Its digest; empty where it is not known."""

    def blocks(self) -> Iterator[np.ndarray]:
        """The numbers of all rows that are used, a block at a time."""
        n_rows = len(self.activations)
        for start in range(0, n_rows, BLOCK):
            rows_R = np.arange(start, min(n_rows, start + BLOCK))
            yield rows_R[self.tokens.positions(rows_R) >= self.skip]


class Chosen(NamedTuple):
    """The points that are studied, in the same order for every cache."""

    keys: list[str]
    """What identifies a point in any cache."""
    strings: list[str]
    """What a person reads."""
    members: tuple[np.ndarray, ...]
    """Per cache, int64 [N]: the row, token id or document number."""
    found: tuple[int, ...]
    """Per cache, how many points it has."""
    shared: int
    """How many of them every cache has."""

    @property
    def sha256(self) -> str:
        """Of the keys, one per line."""
        return hashlib.sha256("\n".join(self.keys).encode()).hexdigest()


class _Candidates(NamedTuple):
    members: dict[str, int]
    """Row, token id or document number of each key; a key that means two of them is not in it."""
    strings: dict[str, str]


def choose(points: Points, sources: Sequence[Source], n: int, seed: int) -> Chosen:
    """At most n points that all sources have, drawn with the seed from their sorted keys."""
    match points:
        case Rows():
            found = _rows(sources, n, seed)
        case TokenMeans(min_count=1) if all(is_vocabulary(one.tokens) and one.skip == 0 for one in sources):
            return _entries(sources, n, seed)
        case TokenMeans():
            name = _by_id if _one_tokenizer(sources) else _unambiguous
            found = [name(named_tokens(source.tokens, source.blocks(), points.min_count)) for source in sources]
        case DocumentMeans():
            found = [_documents(source) for source in sources]
        case _:
            assert_never(points)
    common = sorted(set.intersection(*(set(part.members) for part in found)))
    keys = drawn(common, n, seed)
    members = tuple(np.array([part.members[key] for key in keys], np.int64) for part in found)
    strings = [found[0].strings[key] for key in keys]
    return Chosen(keys, strings, members, tuple(len(part.members) for part in found), len(common))


def states(points: Points, source: Source, members_N: np.ndarray, device: str) -> Tensor:
    """The points' hidden states, float32 [N, D]; means are summed in float64, block by block."""
    match points:
        case Rows():
            x_ND = as_tensor(source.activations[members_N], device)
        case TokenMeans():
            x_ND = _means(source, source.tokens.ids, members_N, device)
        case DocumentMeans():
            x_ND = _means(source, source.tokens.documents, members_N, device)
        case _:
            assert_never(points)
    if not bool(x_ND.isfinite().all()):
        raise InputError(f"{source.name} has rows that are not finite: geometry wants a site without NaN or infinity")
    if bool((x_ND == x_ND[0]).all()):
        raise InputError(f"{source.name} has the same state at all {len(x_ND):,} points: take another site")
    return x_ND


def _means(source: Source, group: Callable[[np.ndarray], np.ndarray], members_N: np.ndarray, device: str) -> Tensor:
    """The mean row of each member of a grouping of rows; other rows are passed over."""
    n = len(members_N)
    sums_ND = torch.zeros(n, source.activations.d, dtype=torch.float64, device=device)
    counts_N = torch.zeros(n, dtype=torch.float64, device=device)
    order_N = np.argsort(members_N)
    for rows_R in source.blocks():
        place_R, kept_R = _places(group(rows_R), members_N, order_N)
        into = torch.from_numpy(place_R[kept_R]).to(device)
        x_RD = as_tensor(source.activations[rows_R[kept_R]], device)
        sums_ND.index_add_(0, into, x_RD.double())
        counts_N.index_add_(0, into, torch.ones(len(into), dtype=torch.float64, device=device))
    return (sums_ND / counts_N[:, None]).float()


def _places(group_R: np.ndarray, members_N: np.ndarray, order_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each row the point it belongs to, and whether it belongs to one."""
    spot_R = np.searchsorted(members_N, group_R, sorter=order_N).clip(max=len(members_N) - 1)
    place_R = order_N[spot_R]
    return place_R, members_N[place_R] == group_R


def _one_tokenizer(sources: Sequence[Source]) -> bool:
    """Whether ids mean the same in several sources; strings would miss words of a WordPiece vocabulary, which knows
    of no space before them."""
    return len(sources) > 1 and sources[0].tokenizer != "" and len({source.tokenizer for source in sources}) == 1


def _entries(sources: Sequence[Source], n: int, seed: int) -> Chosen:
    """Entries of one vocabulary, or those that two share (section "Vocabularies" of docs/geometry.md)."""
    found = [vocabulary(source.name, source.tokens, source.tokenizer) for source in sources]
    if len(found) == 1:
        lines = sorted((spelt, token) for token, spelt in found[0].spellings().items())
        kept = drawn(lines, n, seed)
        ids_N = np.array([token for _, token in kept], np.int64)
        return _spelt([spelt for spelt, _ in kept], (ids_N,), (len(lines),), len(lines))
    both = shared(found[0], found[1], n, seed)
    return _spelt(both.spelt, (both.first_N, both.second_N), both.sizes, both.shared)


def _spelt(spelt: list[bytes], ids: tuple[np.ndarray, ...], sizes: tuple[int, ...], count: int) -> Chosen:
    return Chosen([one.hex() for one in spelt], [one.decode(errors="replace") for one in spelt], ids, sizes, count)


def _by_id(named: Sequence[tuple[str, int]]) -> _Candidates:
    return _Candidates({str(token): token for _, token in named}, {str(token): name for name, token in named})


def _documents(source: Source) -> _Candidates:
    """Documents that have rows, by their ids."""
    counts_C = np.zeros(source.tokens.n_documents, np.int64)
    for rows_R in source.blocks():
        counts_C += np.bincount(source.tokens.documents(rows_R), minlength=len(counts_C))
    ids_C = source.tokens.document_ids
    return _unambiguous([(str(ids_C[number]), number) for number in np.flatnonzero(counts_C).tolist()])


def _unambiguous(named: Sequence[tuple[str, int]]) -> _Candidates:
    times = Counter(name for name, _ in named)
    members = {name: member for name, member in named if times[name] == 1}
    return _Candidates(members, {name: name for name in members})


def _rows(sources: Sequence[Source], n: int, seed: int) -> list[_Candidates]:
    """Rows with text, drawn from the first source, and in the others the rows that end where they end."""
    first = sources[0]
    drawn_R = np.random.default_rng(seed).permutation(len(first.activations))[: 4 * n]
    begin_R, end_R = first.tokens.offsets(drawn_R)
    common = set.intersection(*(set(source.tokens.document_ids.tolist()) for source in sources))
    names_R = first.tokens.document_ids[first.tokens.documents(drawn_R)].tolist()
    usable_R = (begin_R < end_R) & (first.tokens.positions(drawn_R) >= first.skip)
    usable_R &= np.array([name in common for name in names_R], bool)
    wanted_R = np.sort(drawn_R[usable_R][:n])
    places = set(_ends(first.tokens, wanted_R))
    found = [_rows_ending(source, places) for source in sources]
    texts = first.tokens.strings(np.array(list(found[0].values()), np.int64))
    strings = dict(zip(found[0], texts, strict=True))
    return [_Candidates(members, strings) for members in found]


def _rows_ending(source: Source, places: set[str]) -> dict[str, int]:
    """The last row that ends at each of those places: it alone has read all of a character of several tokens."""
    members: dict[str, int] = {}
    for rows_R in source.blocks():
        begin_R, end_R = source.tokens.offsets(rows_R)
        text_R = rows_R[begin_R < end_R]
        pairs = zip(_ends(source.tokens, text_R), text_R.tolist(), strict=True)
        members |= {place: row for place, row in pairs if place in places}
    return members


def _ends(tokens: TokenIndex, rows_R: np.ndarray) -> list[str]:
    """`document@character` where each row's token ends: the same place in every cache of the corpus."""
    documents_R = tokens.document_ids[tokens.documents(rows_R)]
    return [f"{document}@{end}" for document, end in zip(documents_R, tokens.offsets(rows_R)[1], strict=True)]
