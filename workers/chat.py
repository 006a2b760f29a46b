"""Where the messages of a chat stand in what a model's template makes of them, and so whose each token is.

A message's text is its content without the white space around it, which many templates strip and others keep. The
template is run once more with a mark in place of each text. If the texts, put back where the marks came out, give what
it wrote before, then each stands where its mark does, and nowhere else: no search that a message could mislead. Where
they do not (a template that leaves reasoning out, say), messages are marked one at a time, and what stands
in place of the mark is the message, whatever the template made of it.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from storage.errors import RunError
from storage.tokens import ROLES

Message = Mapping[str, Any]
Render = Callable[[Sequence[Message]], str]

_MARK = re.compile("\ue000([0-9]+)\ue001")
"""Of characters that no text has, for Unicode leaves them to private use."""


class Place(NamedTuple):
    """A message's text in what the template wrote."""

    begin: int
    """First character."""
    end: int
    """One past the last."""
    role: int
    """A code of `ROLES`."""


def places(render: Render, messages: Sequence[Message], written: str) -> tuple[Place, ...] | None:
    """Where each message stands in `written`, in order; those that the template leaves out, or that are blank, do not.

    None where the template does more with some message than to write it down.
    """
    if _MARK.search(written):
        return None
    found = _together(render, messages, written)
    if found is None:
        alone = [_alone(render, messages, n, written) for n in range(len(messages))]
        found = None if None in alone else [place for some in alone for place in some or ()]
    return None if found is None else tuple(sorted(found))


def roles_of(found: Sequence[Place], begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    """For each token the code of the first message whose text its characters [begin, end) overlap, else 0; int8 [n]."""
    roles = np.zeros(len(begin), np.int8)
    for place in reversed(found):
        roles[(begin < place.end) & (end > place.begin)] = place.role
    return roles


def _together(render: Render, messages: Sequence[Message], written: str) -> list[Place] | None:
    marked = _tried(render, messages, range(len(messages)))
    if marked is None:
        return None
    first, *rest = _MARK.split(marked)
    found, pieces, at = [], [first], len(first)
    for number, after in zip(map(int, rest[::2]), rest[1::2], strict=True):
        text = messages[number]["content"].strip()
        found.append(Place(at, at + len(text), _code(messages[number])))
        pieces += [text, after]
        at += len(text) + len(after)
    return found if "".join(pieces) == written else None


def _alone(render: Render, messages: Sequence[Message], n: int, written: str) -> list[Place] | None:
    """The places of one message: what `written` has where the template, given the mark, writes the mark."""
    content = messages[n]["content"].strip()
    if not content:
        return []
    marked = _tried(render, messages, [n])
    if marked is None:
        return None
    pieces = marked.split(_mark(n))
    length = (len(written) - sum(map(len, pieces))) // max(len(pieces) - 1, 1)
    text = written[len(pieces[0]) :][: max(length, 0)]
    if text.join(pieces) != written:
        return None
    kept = content if text.count(content) == 1 else text.strip()
    starts = np.cumsum([len(piece) + len(text) for piece in pieces[:-1]], dtype=int) - len(text) + text.index(kept)
    return [Place(at, at + len(kept), _code(messages[n])) for at in starts.tolist() if kept]


def _tried(render: Render, messages: Sequence[Message], numbers: Collection[int]) -> str | None:
    """What the template writes with marks in place of some messages' texts; None where it refuses them."""
    try:
        return render([_marked(message, n) if n in numbers else message for n, message in enumerate(messages)])
    except RunError:
        return None


def _marked(message: Message, n: int) -> Message:
    content = message["content"]
    if not content.strip():
        return message
    before, _, after = content.partition(content.strip())
    return {**message, "content": f"{before}{_mark(n)}{after}"}


def _mark(n: int) -> str:
    return f"\ue000{n}\ue001"


def _code(message: Message) -> int:
    return ROLES.index(message["role"]) if message["role"] in ROLES else 0
