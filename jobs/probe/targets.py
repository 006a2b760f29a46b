"""What a probe is asked for: a label column, or a property of the token; and the same shuffled over documents.

N examples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, assert_never

import numpy as np

from jobs.core.splits import Split
from jobs.probe.examples import Examples
from storage.errors import InputError
from storage.index import TokenIndex
from storage.value import Value


class Number(Value, tag_field="kind", tag="number"):
    """A label column read as a number, so that integers are regressed and not told apart as classes."""

    name: str
    """The label column."""


class Position(Value, tag_field="kind", tag="position"):
    """The token's position in its sequence, in tokens."""


class TokenId(Value, tag_field="kind", tag="token_id"):
    """Which token it is, told apart among the commonest; other tokens are left out."""

    commonest: int = 20
    """How many token ids."""


class Length(Value, tag_field="kind", tag="length"):
    """The length of the token's text, in characters."""


class Capitalised(Value, tag_field="kind", tag="capitalised"):
    """Whether the token's text begins with a capital letter."""


class WordStart(Value, tag_field="kind", tag="word_start"):
    """Whether the token begins a word: white space, or nothing, comes before it."""


Property = Position | TokenId | Length | Capitalised | WordStart
Target = str | Number | Property


@dataclass(frozen=True)
class Labels:
    """What a target says of each example."""

    name: str
    classes: tuple[str, ...]
    """Names of the classes; empty where the target is a number."""
    y_N: np.ndarray
    """Index of the class (int64), or the number (float64)."""
    known_N: np.ndarray
    """False where there is no answer: a missing label, a class that was left out."""
    of_document: bool
    """The same for all tokens of a document."""
    left_out: tuple[str, ...] = ()
    """Classes that some side of the split has no document for."""

    @property
    def n_outputs(self) -> int:
        return len(self.classes) or 1


def name(target: Target) -> str:
    """What a target is called in tables and figures."""
    match target:
        case str():
            return target
        case Number(name=label):
            return label
        case _:
            return str(target.__struct_config__.tag)


def is_property(target: Target) -> bool:
    """Whether the target belongs to a token and not to its document."""
    return isinstance(target, Property)


def numeric(target: Target) -> bool:
    """Whether the target is known to be a number before any data is seen."""
    return isinstance(target, Number | Position | Length)


def read_labels(target: Target, tokens: TokenIndex, examples: Examples, parts: Split, max_classes: int) -> Labels:
    """The target over the examples; `InputError` where there is nothing to fit."""
    match target:
        case str():
            values = _column(tokens, target)
            given = np.array([_given(value) for value in values])
            found = values[given]
            if all(isinstance(value, float | np.floating) for value in found):
                return _numbers(target, values, given, examples, parts)
            names = np.array([str(value) if ok else "" for value, ok in zip(values, given, strict=True)], object)
            at = examples.documents_N
            return _classes(target, names[at], given[at], examples, parts, max_classes, of_document=True)
        case Number(name=label):
            values = _column(tokens, label)
            return _numbers(label, values, np.array([_given(value) for value in values]), examples, parts)
        case _:
            return _property(target, tokens, examples, parts, max_classes)


def shuffled(y_N: np.ndarray, documents_N: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`y_N` with documents' answers exchanged whole: the null keeps how alike the rows of a document are.

    A document's i-th example gets the (i + offset)-th answer of another document, round and round; for a label of
    the document this is a permutation of documents, for a property of the token it also breaks the tie to position.
    """
    order = np.argsort(documents_N, kind="stable")
    _, starts, counts = np.unique(documents_N[order], return_index=True, return_counts=True)
    owner = np.repeat(np.arange(len(starts)), counts)
    other = rng.permutation(len(starts))[owner]
    offset = rng.integers(0, 1 << 40, len(starts))[owner]
    within = np.arange(len(order)) - starts[owner]
    result = np.empty_like(y_N)
    result[order] = y_N[order][starts[other] + (within + offset) % counts[other]]
    return result


def _column(tokens: TokenIndex, label: str) -> np.ndarray:
    if label not in tokens.label_names:
        there = ", ".join(tokens.label_names) or "none"
        raise InputError(
            f"the probe asks for label {label!r}; the cache's label columns are: {there}; correct `targets`"
        )
    return tokens.label(label)


def _given(value: Any) -> bool:  # a label is any scalar
    return value is not None and value == value  # NaN differs from itself


def _numbers(label: str, values: np.ndarray, given: np.ndarray, examples: Examples, parts: Split) -> Labels:
    try:
        y = np.where(given, values, np.nan).astype(np.float64)
    except ValueError as error:
        raise InputError(
            f"label {label!r} is not a number everywhere ({error}): probe it as a class instead"
        ) from error
    at = examples.documents_N
    return _number_labels(label, y[at], given[at], parts, of_document=True)


def _number_labels(label: str, y_N: np.ndarray, known_N: np.ndarray, parts: Split, *, of_document: bool) -> Labels:
    for side, mask in (("train", parts.train), ("validation", parts.validation), ("test", parts.test)):
        if len(np.unique(y_N[mask & known_N])) < 2:
            raise InputError(
                f"a probe wants a target that varies; {label!r} is constant or missing on the {side} documents: drop it"
            )
    return Labels(label, (), np.where(known_N, y_N, 0.0), known_N, of_document)


def _classes(
    label: str,
    names_N: np.ndarray,
    known_N: np.ndarray,
    examples: Examples,
    parts: Split,
    max_classes: int,
    *,
    of_document: bool,
) -> Labels:
    """Classes in the order of their names; one that lacks documents on some side of the split is left out."""
    found, codes = np.unique(names_N[known_N].astype(str), return_inverse=True)
    if len(found) > max_classes:
        raise InputError(
            f"a probe tells apart at most {max_classes} classes (max_classes); label {label!r} has {len(found)}: "
            "list the `targets` you want, or read it as a number"
        )
    y_N = np.full(len(names_N), -1)
    y_N[known_N] = codes
    sides = [
        np.bincount(y_N[mask & known_N], minlength=len(found)) for mask in (parts.train, parts.validation, parts.test)
    ]
    kept = np.min(sides, axis=0) > 0
    if kept.sum() < 2:
        raise InputError(
            f"a probe wants 2 classes or more with documents for train, validation and test; label {label!r} has "
            f"{len(found)} classes, of which {kept.sum()} have them: drop it, or harvest more documents"
        )
    number = np.where(kept, np.cumsum(kept) - 1, -1)
    y_N[known_N] = number[codes]
    left_out = tuple(found[~kept].tolist())
    return Labels(label, tuple(found[kept].tolist()), np.maximum(y_N, 0), y_N >= 0, of_document, left_out)


def _property(target: Property, tokens: TokenIndex, examples: Examples, parts: Split, max_classes: int) -> Labels:
    rows_N = examples.rows_R
    everywhere = np.ones(len(rows_N), bool)
    match target:
        case Position():
            y_N = tokens.positions(rows_N).astype(np.float64)
            return _number_labels(name(target), y_N, everywhere, parts, of_document=False)
        case Length():
            y_N = np.array([len(text) for text in tokens.strings(rows_N)], np.float64)
            return _number_labels(name(target), y_N, everywhere, parts, of_document=False)
        case TokenId(commonest=k):
            names_N, known_N = _commonest(tokens, rows_N, k)
        case Capitalised():
            names_N, known_N = _claims([text.lstrip()[:1].isupper() for text in tokens.strings(rows_N)]), everywhere
        case WordStart():
            names_N, known_N = _claims(_word_starts(tokens, rows_N)), everywhere
        case _:
            assert_never(target)
    return _classes(name(target), names_N, known_N, examples, parts, max_classes, of_document=False)


def _claims(claims: Sequence[bool] | np.ndarray) -> np.ndarray:
    return np.where(np.asarray(claims), "yes", "no")


def _commonest(tokens: TokenIndex, rows_N: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Names of the k commonest token ids (id and text), and which examples have one of them."""
    found, first, codes, counts = np.unique(
        tokens.ids(rows_N), return_index=True, return_inverse=True, return_counts=True
    )
    kept = np.argsort(-counts, kind="stable")[:k]
    names = np.full(len(found), "", dtype=object)
    texts = tokens.strings(rows_N[first[kept]])
    names[kept] = [f"{text.strip() or repr(text)} ({found[i]})" for text, i in zip(texts, kept, strict=True)]
    return names[codes], np.isin(codes, kept)


def _word_starts(tokens: TokenIndex, rows_N: np.ndarray) -> np.ndarray:
    if tokens.selected:
        raise InputError(
            "target word_start needs the token before each, and this cache keeps rows of some tokens only: "
            "drop the target, or name a cache of all tokens"
        )
    before_N = np.maximum(rows_N - 1, 0)
    needed = np.union1d(rows_N, before_N)
    texts = np.array(tokens.strings(needed), dtype=object)
    text_N, text_before_N = (texts[np.searchsorted(needed, rows)] for rows in (rows_N, before_N))
    opens_N = tokens.documents(before_N) != tokens.documents(rows_N)
    apart_N = tokens.offsets(before_N)[1] != tokens.offsets(rows_N)[0]
    return word_starts(text_N, text_before_N, opens_N | apart_N)


def word_starts(text_N: np.ndarray, text_before_N: np.ndarray, apart_N: np.ndarray) -> np.ndarray:
    """Tokens with text that begin a word, given the token before each, and whether a gap or a new document is between.

    Tokenizers differ on where white space goes: into a token's span, into a token of its own, or nowhere. All count.
    """
    spaced_N = np.array([text[:1].isspace() for text in text_N])
    after_space_N = np.array([text[-1:].isspace() or not text for text in text_before_N])
    return (text_N != "") & (spaced_N | after_space_N | apart_N)
