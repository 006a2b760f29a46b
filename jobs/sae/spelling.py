"""Words of a cache and their first letters: the concepts that absorption is measured on.

N words, H rows of held-out documents, B batches.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from string import ascii_lowercase

import numpy as np
from torch import Tensor

from jobs.sae.absorption import Absorption, Rows, absorption, gathered
from jobs.sae.codes import Codes
from storage.index import TokenIndex

LETTERS = tuple(ascii_lowercase)
MOST_WORDS = 8192
"""Half to find probes and features on: some 150 words a letter, and seconds to fit."""
_MOST_ROWS = 1 << 19
"""Rows looked through for words: their texts pass through memory."""
_BLOCK = 1 << 16
_WORD = re.compile(r" ?([A-Za-z]{2,})")


@dataclass(frozen=True)
class Words:
    """Different words that are one token each, with a row of each."""

    rows_N: np.ndarray
    """Ascending."""
    words: tuple[str, ...]
    """In lower case."""

    @property
    def letters_N(self) -> np.ndarray:
        """Place of each one's first letter in the alphabet."""
        return np.array([LETTERS.index(word[0]) for word in self.words], np.int64)


def find_words(tokens: TokenIndex, rows_H: np.ndarray, seed: int) -> Words:
    """One row for each of many words, drawn at random from the rows given; none where the cache has no text.

    The first row of a sequence is passed by: its hidden state is like no other.
    """
    found: dict[str, int] = {}
    if tokens.has_text:
        for word, row in _candidates(tokens, rows_H, seed):
            if word not in found and _is_whole(tokens, row):
                found[word] = row
            if len(found) == MOST_WORDS:
                break
    ordered = sorted(found.items(), key=lambda item: item[1])
    return Words(np.array([row for _, row in ordered], np.int64), tuple(word for word, _ in ordered))


def _candidates(tokens: TokenIndex, rows_H: np.ndarray, seed: int) -> Iterator[tuple[str, int]]:
    """Rows in random order whose tokens are letters throughout."""
    order_H = np.random.default_rng(seed).permutation(rows_H)[:_MOST_ROWS]
    for at in range(0, len(order_H), _BLOCK):
        rows_B = order_H[at : at + _BLOCK]
        rows_B = rows_B[tokens.positions(rows_B) > 0]
        for row, string in zip(rows_B.tolist(), tokens.strings(rows_B), strict=True):
            if match := _WORD.fullmatch(string):
                yield match[1].lower(), row


def _is_whole(tokens: TokenIndex, row: int) -> bool:
    """Whether no letter or digit touches the token."""
    left, token, right = tokens.context(row, 1, 1)
    return not right[:1].isalnum() and (token.startswith(" ") or not left[-1:].isalnum())


def first_letters(
    words: Words, batches: Iterable[tuple[Tensor, Codes]], atoms_FD: Tensor, offset_D: Tensor, seed: int
) -> tuple[Absorption, ...]:
    """Absorption of first letters: `batches` are the words' hidden states and codes, in the order of their rows.

    Atoms in the rows' own units; `offset_D` is what the decoder adds without any feature. A word is on one side only,
    so that a probe cannot know it by heart.
    """
    x_ND, z_NF = gathered(batches, len(atoms_FD))
    train_N = np.random.default_rng(seed).permutation(len(x_ND)) % 2 == 0
    return absorption(Rows(x_ND - offset_D, z_NF, words.letters_N, train_N), atoms_FD, seed)
