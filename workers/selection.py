"""Which tokens of a sequence have rows, where not all have one; the model reads the whole sequence all the same.

T: tokens of a sequence.
"""

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Annotated, Literal, assert_never

import msgspec
import numpy as np

from storage.tokens import ROLES, Span
from storage.value import Value


class Content(Value, tag_field="kind", tag="content"):
    """Every token that is not special to the tokenizer."""


class Last(Value, tag_field="kind", tag="last"):
    """The last token of each sequence that is not special to the tokenizer; a sequence without one has no row."""

    special: bool = False
    """Whether it may be a special token: then it is the last one, whatever it is."""


class Every(Value, tag_field="kind", tag="every"):
    """The tokens at positions 0, n, 2n, ... of each sequence, special ones counted."""

    n: Annotated[int, msgspec.Meta(ge=2)]
    """Tokens from one row to the next."""


class OfRole(Value, tag_field="kind", tag="role"):
    """The tokens of a chat's messages of one role."""

    role: Literal["system", "user", "assistant", "tool"]
    """As the corpus names it."""


Selection = Content | Last | Every | OfRole


def needs_special(selection: Selection) -> bool:
    """Whether it must be known which tokens are special."""
    return isinstance(selection, Content) or (isinstance(selection, Last) and not selection.special)


def selected(spans: Iterable[Span], selection: Selection, special: np.ndarray) -> Iterator[Span]:
    """The spans with the rows that are selected; `special` are the ids of special tokens."""
    for _, several in groupby(spans, key=lambda span: span.sequence):
        sequence = list(several)
        chosen_T = _chosen(sequence, selection, special)
        edges = np.cumsum([len(span.input_ids) for span in sequence])[:-1]
        for span, mask in zip(sequence, np.split(chosen_T, edges), strict=True):
            yield span if mask.all() else span._replace(rows=np.flatnonzero(mask).astype(np.int32))


def _chosen(sequence: list[Span], selection: Selection, special: np.ndarray) -> np.ndarray:
    """Which tokens of a sequence have a row, bool [T]."""
    ids_T = np.concatenate([span.input_ids for span in sequence])
    match selection:
        case Content():
            return np.isin(ids_T, special, invert=True)
        case Last(special=True):
            return np.arange(len(ids_T)) == len(ids_T) - 1
        case Last():
            content = np.flatnonzero(np.isin(ids_T, special, invert=True))
            return np.isin(np.arange(len(ids_T)), content[-1:])
        case Every(n=n):
            return np.arange(len(ids_T)) % n == 0
        case OfRole(role=role):
            return np.concatenate([span.roles == ROLES.index(role) for span in sequence])
        case _:
            assert_never(selection)
