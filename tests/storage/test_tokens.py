"""Token parts and their index: every row is one token, whichever tokens of a span are rows."""

import itertools

import numpy as np
import pytest

from storage.errors import InputError
from storage.index import TokenIndex
from storage.manifest import Claim, SourceFile
from storage.segment import Segment, part_name
from storage.sequences import Sequences
from storage.tokens import Span, write_part
from storage.url import Folder

_numbers = itertools.count()


def span(sequence, document, n, rows=None, roles=None, text=True, **labels):
    """A span of `n` tokens of a letter each, whose ids say sequence, document and place."""
    ids = np.arange(n, dtype=np.int32) + 100 * document + 10_000 * sequence
    edges = np.arange(n + 1, dtype=np.int32)
    rows = None if rows is None else np.array(rows, np.int32)
    roles = None if roles is None else np.array(roles, np.int8)
    place = (edges[:-1], edges[1:], "abcdefghij"[:n]) if text else (None, None, None)
    return Span(sequence, document, f"doc:{document}", ids, *place, 0, labels, None, rows, roles)


def segment_of(*parts):
    """A planned segment of those spans, in memory."""
    segment = Segment(Folder(f"memory://tokens-{next(_numbers)}"), 0)
    files = tuple(SourceFile(path=f"{n}.txt", size=1) for n in range(len(parts)))
    segment.claim(Claim(files=files, parts=tuple((n,) for n in range(len(parts))), unit=8, shard_bytes=2**26))
    for n, spans in enumerate(parts):
        write_part(segment.folder, part_name(n), spans)
    segment.fix()
    return segment


MIXED = (
    [span(0, 0, 3, rows=[1]), span(0, 1, 2), span(0, 2, 4, rows=[0, 3]), span(1, 2, 1, rows=[]), span(1, 3, 0)],
    [span(0, 0, 5, rows=[4]), span(1, 1, 2, rows=[]), span(2, 2, 1)],
)
"""Packed sequences and a document over two of them, with all, some and none of their tokens as rows."""
ROWS = ((0, 0, 1), (0, 1, 3), (0, 1, 4), (0, 2, 5), (0, 2, 8), (2, 4, 4), (4, 6, 0))
"""Sequence, document, and position in the sequence of every row."""


def test_the_index_says_of_each_row_what_its_token_is():
    index = TokenIndex([segment_of(*MIXED)])
    every = np.arange(index.n_rows)
    assert (index.n_rows, index.n_sequences, index.n_documents, index.selected) == (7, 5, 7, True)
    found = zip(index.sequences(every), index.documents(every), index.positions(every), strict=True)
    assert [tuple(map(int, row)) for row in found] == list(ROWS)
    assert index.ids(every).tolist() == [1, 100, 101, 200, 203, 4, 20200]
    assert index.strings(every) == ["b", "a", "b", "a", "d", "e", "a"]
    assert [index.document_rows(n).tolist() for n in range(7)] == [[0], [1, 2], [3, 4], [], [5], [], [6]]
    assert index.context(4, 2, 1) == ("bc", "d", "")
    np.testing.assert_array_equal(index.positions(np.array([4, 0])), [8, 1])


@pytest.mark.parametrize("first", range(7))
@pytest.mark.parametrize("n", [1, 3, 7])
def test_sequences_with_a_row_in_a_range_are_read_whole(first, n):
    segment = segment_of(*MIXED)
    starts = {0: 0, 5: 2, 6: 4}  # first row of each sequence that has one
    found = list(Sequences(segment).touching(first, first + n))
    wanted = [start for start, stop in ((0, 5), (5, 6), (6, 7)) if start < first + n and stop > first]
    assert [sequence.start for sequence in found] == wanted
    for sequence in found:
        mine = [position for number, _, position in ROWS if number == starts[sequence.start]]
        assert (sequence.rows.tolist(), sequence.n_rows) == (mine, len(mine))
    assert [len(sequence.input_ids) for sequence in found] == [{0: 9, 5: 5, 6: 1}[start] for start in wanted]


def test_without_a_selection_every_token_is_a_row():
    segment = segment_of([span(0, 0, 3), span(1, 1, 0), span(2, 2, 2)])
    index = TokenIndex([segment])
    assert not index.selected
    assert index.positions(slice(None)).tolist() == [0, 1, 2, 0, 1]
    assert [(one.rows, one.n_rows, one.roles) for one in Sequences(segment).touching(0, 5)] == [
        (None, 3, None),
        (None, 2, None),
    ]


def test_parts_count_rows():
    (first, second) = segment_of(*MIXED).plan.parts
    assert (first.rows, first.sequences, first.documents, first.empty, first.longest) == (5, 2, 4, 1, 5)
    assert (second.rows, second.sequences, second.documents, second.empty, second.longest) == (2, 3, 3, 1, 1)


def test_roles_are_read_at_the_rows_and_are_0_where_they_are_not_known():
    spans = [span(0, 0, 3, rows=[1, 2], roles=[0, 2, 3]), span(1, 1, 2), span(2, 2, 1, roles=[4])]
    segment = segment_of(spans)
    index = TokenIndex([segment])
    assert index.roles(slice(None)).tolist() == [2, 3, 0, 0, 4]
    assert index.roles(slice(None)).dtype == np.int8
    roles = [None if one.roles is None else one.roles.tolist() for one in Sequences(segment).touching(0, 5)]
    assert roles == [[0, 2, 3], None, [4]]
    with pytest.raises(InputError, match="have no roles: harvest messages with the tokenisation chat"):
        TokenIndex([segment_of([span(0, 0, 2)])]).roles(slice(None))


def test_offsets_are_refused_where_some_row_has_none():
    index = TokenIndex([segment_of([span(0, 0, 2), span(1, 1, 2, text=False)])])
    assert not index.has_text
    with pytest.raises(InputError, match="its corpus has no text"):
        index.offsets(slice(None))
    assert index.ids(slice(None)).tolist() == [0, 1, 10_100, 10_101]
    without = TokenIndex([segment_of([span(0, 0, 2, rows=[1]), span(1, 1, 2, rows=[], text=False), span(2, 2, 1)])])
    assert without.strings(slice(None)) == ["b", "a"]


def test_a_part_without_a_document_is_a_part():
    index = TokenIndex([segment_of([]), segment_of([span(0, 0, 2, color="red")], [])])
    assert (index.label_names, index.label("color").tolist()) == (("color",), ["red"])
    assert index.positions(slice(None)).tolist() == [0, 1]
