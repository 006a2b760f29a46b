"""What the model is asked to go on with, and which next tokens speak for either side.

B prompts, T tokens of each, V token ids.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jobs.contrast.sides import side_of, split_of
from jobs.contrast.vectors import Vectors
from jobs.core.vocabulary import STUDIED, Vocabulary, vocabulary
from jobs.steering.config import Config, Named, Typical
from storage.cache import Cache
from storage.errors import InputError
from storage.index import TokenIndex


@dataclass(frozen=True)
class Prompts:
    """Beginnings of held-out documents, all of one length."""

    ids_BT: np.ndarray
    rows_B: np.ndarray
    """The row of each prompt's last token in the cache."""
    note: str

    def __len__(self) -> int:
        return len(self.ids_BT)


@dataclass(frozen=True)
class Answers:
    """Token ids of both sides, and how they read."""

    positive: np.ndarray
    negative: np.ndarray
    names: tuple[str, str]

    @property
    def all(self) -> np.ndarray:
        return np.concatenate([self.positive, self.negative])


def prompts(config: Config, cache: Cache, vectors: Vectors) -> Prompts:
    """At most `n_prompts`, drawn from documents of both sides that no vector was fitted on."""
    tokens = cache.tokens
    if tokens.selected:
        raise InputError(f"{config.cache} has rows for some of its tokens alone: prompts want a cache that has all")
    held_D = split_of(vectors.config, tokens).test & (side_of(vectors.config, tokens) >= 0)
    drawn = np.random.default_rng(config.seed).permutation(_by_id(tokens, np.flatnonzero(held_D)))
    rows = [tokens.document_rows(int(document))[: config.prompt_tokens] for document in drawn]
    kept = [one for one in rows if _is_beginning(tokens, one, config.prompt_tokens)]
    if len(kept) < 2:
        raise InputError(
            f"{len(kept)} of {len(rows)} held-out documents of {config.cache} have {config.prompt_tokens} tokens in "
            "one sequence: lower prompt_tokens, or harvest longer documents"
        )
    rows_BT = np.stack(kept[: config.n_prompts])
    short = len(rows) - len(kept)
    note = f"{len(rows_BT)} prompts: the first {config.prompt_tokens} tokens of held-out documents of both sides" + (
        f" ({short} are shorter and were left out)." if short else "."
    )
    return Prompts(tokens.ids(rows_BT.ravel()).reshape(rows_BT.shape).astype(np.int64), rows_BT[:, -1], note)


def answers(config: Config, cache: Cache, table: Cache, vectors: Vectors) -> Answers:
    """Those named, or the most typical tokens of each side."""
    known = vocabulary(config.vocabulary, table.tokens, table.record.identity.tokenizer)
    if isinstance(config.answers, Named):
        ids = [_named(words, known) for words in (config.answers.positive, config.answers.negative)]
    else:
        ids = _typical(config.answers, cache.tokens, known, vectors)
    if both := set(ids[0].tolist()) & set(ids[1].tolist()):
        raise InputError(f"tokens {sorted(both)} are answers of both sides: name each once")
    texts = dict(zip(known.ids_V.tolist(), known.spelt_V, strict=True))
    names = [
        ", ".join(texts[token].decode(errors="replace").strip() for token in side)
        for side in map(np.ndarray.tolist, ids)
    ]
    return Answers(ids[0], ids[1], (names[0], names[1]))


def _by_id(tokens: TokenIndex, documents: np.ndarray) -> np.ndarray:
    """In the order of their ids, so that the order of rows draws no others."""
    return documents[np.argsort(tokens.document_ids[documents].astype(str), kind="stable")]


def _is_beginning(tokens: TokenIndex, rows_T: np.ndarray, length: int) -> bool:
    return len(rows_T) == length and np.array_equal(tokens.positions(rows_T), np.arange(length))


def _named(words: Sequence[str], known: Vocabulary) -> np.ndarray:
    by_bytes: dict[bytes, list[int]] = {}
    for token, spelt in known.spellings().items():
        by_bytes.setdefault(spelt, []).append(token)
    return np.array([_token(word, by_bytes, known.name) for word in words], np.int64)


def _token(word: str, by_bytes: dict[bytes, list[int]], name: str) -> int:
    """The id of a word as it is written, else of the same with a space before it."""
    for spelt in (word.encode(), f" {word}".encode()):
        if len(found := by_bytes.get(spelt, [])) == 1:
            return found[0]
    near = sorted(
        {one.decode(errors="replace") for one in by_bytes if one.strip().startswith(word.strip()[:3].encode())}
    )
    raise InputError(
        f"answer {word!r} is no single token of {name}; tokens that begin alike are {near[:8]}: name one of these"
    )


def _typical(asked: Typical, tokens: TokenIndex, known: Vocabulary, vectors: Vectors) -> list[np.ndarray]:
    """By z = d / sqrt(1/a + 1/b), d the log of the ratio of the odds of a token on the two sides, counts plus 1/2."""
    side_D = np.where(split_of(vectors.config, tokens).train, side_of(vectors.config, tokens), -1)
    ids_R, side_R = tokens.ids(slice(None)).astype(np.int64), side_D[tokens.documents(slice(None))]
    size = int(max(ids_R.max(), known.ids_V.max())) + 1
    counts = [np.bincount(ids_R[side_R == side], minlength=size) + 0.5 for side in (1, 0)]
    odds = [count / (count.sum() - count) for count in counts]
    z_V = np.log(odds[0] / odds[1]) / np.sqrt(1 / counts[0] + 1 / counts[1])
    text = np.zeros(size, bool)
    text[list(known.spellings(STUDIED))] = True
    found = []
    for sign in (1, -1):
        order = np.argsort(-sign * z_V, kind="stable")
        found.append(np.sort(order[text[order] & (sign * z_V[order] > 0)][: asked.n]))
    if min(map(len, found)) == 0:
        raise InputError(
            "no token is more frequent on one side than on the other: name answers instead of typical ones"
        )
    return found
