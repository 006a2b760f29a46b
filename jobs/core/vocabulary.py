"""Which tokens two vocabularies share, by the bytes that they are spelt with.

V tokens of a vocabulary, N chosen.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np

from storage.cache import Cache
from storage.errors import InputError
from storage.index import TokenIndex

T = TypeVar("T")

STUDIED = ("text", "continuation")
"""Kinds of entries that stand for text; bytes, special and unused ones are left out unless they are asked for."""


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of one vocabulary cache, in the order of its rows."""

    name: str
    tokenizer: str
    """Its digest; two vocabularies with one tokenizer mean the same by an id."""
    ids_V: np.ndarray
    """Token ids, int64."""
    spelt_V: Sequence[bytes]
    kinds_V: Sequence[str]

    def spellings(self, kinds: Sequence[str] = STUDIED) -> dict[int, bytes]:
        """Token id to bytes, of the entries of those kinds."""
        lines = zip(self.ids_V.tolist(), self.spelt_V, self.kinds_V, strict=True)
        return {token: spelt for token, spelt, kind in lines if kind in kinds}


@dataclass(frozen=True)
class Shared:
    """The same tokens in two vocabularies, in the order of their bytes."""

    spelt: list[bytes]
    first_N: np.ndarray
    """Their ids in the first vocabulary, int64."""
    second_N: np.ndarray
    """Their ids in the second one, int64."""
    sizes: tuple[int, int]
    """|V1| and |V2|: the tokens that stand for text."""
    shared: int
    """How many both have; those chosen are drawn from them."""

    @cached_property
    def sha256(self) -> str:
        """Of the chosen tokens, each spelt in hex on a line of its own."""
        return hashlib.sha256("\n".join(spelt.hex() for spelt in self.spelt).encode()).hexdigest()

    @property
    def remark(self) -> str:
        """What a report says of the choice."""
        return (
            f"{len(self.spelt):,} tokens of {self.shared:,} shared by vocabularies of {self.sizes[0]:,} and "
            f"{self.sizes[1]:,}; sha256 of the list {self.sha256[:12]}"
        )


def is_vocabulary(tokens: TokenIndex) -> bool:
    """Whether the rows say how a token is spelt."""
    return {"entry", "bytes"} <= set(tokens.label_names)


def vocabulary(name: str, tokens: TokenIndex, tokenizer: str) -> Vocabulary:
    """The tokens of a vocabulary cache; `InputError` where the cache is none."""
    if not is_vocabulary(tokens):
        raise InputError(
            f"{name} does not say how its tokens are spelt: name a cache of a corpus with vocabulary = true; one that "
            "was made before vocabularies had entries and bytes has to be removed and harvested again"
        )
    spelt = [bytes.fromhex(value) for value in tokens.label("bytes")]
    return Vocabulary(name, tokenizer, tokens.ids(slice(None)).astype(np.int64), spelt, list(tokens.label("entry")))


def shared_vocabulary(
    first: Cache, second: Cache, n: int | None = None, seed: int = 0, least: int = 2, kinds: Sequence[str] = STUDIED
) -> Shared:
    """At most `n` tokens of those that both caches have, drawn with the seed; `InputError` below `least` of them."""
    both = [vocabulary(cache.id, cache.tokens, cache.record.identity.tokenizer) for cache in (first, second)]
    return shared(both[0], both[1], n, seed, least, kinds)


def shared(
    first: Vocabulary, second: Vocabulary, n: int | None, seed: int, least: int = 2, kinds: Sequence[str] = STUDIED
) -> Shared:
    """As `shared_vocabulary`. Which cache is called first changes nothing but the order of the answer's parts.

    With one tokenizer a token is its id. Otherwise it is its bytes, and bytes that two ids of one vocabulary are
    spelt with are left out.
    """
    spellings = [one.spellings(kinds) for one in (first, second)]
    if first.tokenizer and first.tokenizer == second.tokenizer:
        pairs = [(spelt, token, token) for token, spelt in spellings[0].items() if token in spellings[1]]
    else:
        ids = [_unambiguous(one) for one in spellings]
        pairs = [(spelt, token, ids[1][spelt]) for spelt, token in ids[0].items() if spelt in ids[1]]
    if len(pairs) < least:
        raise InputError(
            f"{first.name} ({len(spellings[0]):,} tokens of text) and {second.name} ({len(spellings[1]):,}) share "
            f"{len(pairs):,} tokens, wanted at least {least:,}: compare models whose tokenizers know the same words, "
            "or ask for fewer"
        )
    kept = drawn(sorted(pairs), n, seed)
    ids_N2 = np.array([pair[1:] for pair in kept], np.int64).reshape(-1, 2)
    sizes = len(spellings[0]), len(spellings[1])
    return Shared([spelt for spelt, *_ in kept], ids_N2[:, 0], ids_N2[:, 1], sizes, len(pairs))


def rows_of(tokens: TokenIndex, ids_N: np.ndarray) -> np.ndarray:
    """The rows of a vocabulary cache that hold these tokens, int64 [N]."""
    ids_V = tokens.ids(slice(None))
    order_V = np.argsort(ids_V, kind="stable")
    return order_V[np.searchsorted(ids_V, ids_N, sorter=order_V)].astype(np.int64)


def _unambiguous(spellings: dict[int, bytes]) -> dict[bytes, int]:
    times = Counter(spellings.values())
    return {spelt: token for token, spelt in spellings.items() if times[spelt] == 1}


def drawn(tokens: Sequence[T], n: int | None, seed: int) -> list[T]:
    """At most `n` of them, in their order."""
    if n is None or len(tokens) <= n:
        return list(tokens)
    at_N = np.random.default_rng(seed).choice(len(tokens), n, replace=False)
    return [tokens[at] for at in np.sort(at_N)]
