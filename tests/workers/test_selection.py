"""Selected rows: which tokens have one, for every kind of tokenisation; all tokens stay for the model to read."""

import itertools
import json

import msgspec
import numpy as np
import pytest
from tokenizers import AddedToken
from transformers import GPT2Config

from storage.errors import InputError
from storage.tokens import ROLES
from storage.value import canonical, convert
from tests.pipeline import tiny
from workers.document import Document, Ids, Messages, Text
from workers.encode import Encoder
from workers.selection import Content, Every, Last, OfRole
from workers.tokens import Chat, Documents, Entries, Packed, Patches, Tokenisation, Tokeniser
from workers.tokens import Ids as ReadyIds

TEXTS = ("some words", "", "x", "longer than any context of these tests is", "with <sep> in it", "<sep><cls>")
CHATS = (
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}],
    [{"role": "user", "content": "a question"}, {"role": "assistant", "content": "an answer, and long"}],
)
SPECIAL = (0, 1, 2, 3)
"""<pad>, <eos>, <cls>, <sep>"""
SELECTIONS = (Content(), Last(), Last(special=True), Every(n=2), Every(n=5))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tokenizer of bytes that puts each sequence between <cls> and <sep>."""
    return str(tiny.save_encoder(tmp_path_factory.mktemp("selection") / "model"))


def documents(texts=TEXTS):
    return [Document(f"doc:{n}", Text(text)) for n, text in enumerate(texts)]


def wanted(selection, ids):
    """Positions of a sequence's rows, said slowly."""
    content = [position for position, token in enumerate(ids) if token not in SPECIAL]
    match selection:
        case Content():
            return content
        case Last(special=special):
            return (list(range(len(ids))) if special else content)[-1:]
        case Every(n=n):
            return list(range(0, len(ids), n))


def sequences(spans):
    return [list(several) for _, several in itertools.groupby(spans, key=lambda span: span.sequence)]


def rows_of(sequence):
    """Positions of a sequence's rows in it."""
    ends = np.cumsum([0, *(len(span.input_ids) for span in sequence)])
    chosen = [np.arange(len(span.input_ids)) if span.rows is None else span.rows for span in sequence]
    assert [len(rows) for rows in chosen] == [span.n_rows for span in sequence]
    return np.concatenate([rows + end for rows, end in zip(chosen, ends, strict=False)]).tolist()


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize(
    "make",
    [
        lambda select: Documents(select=select),
        lambda select: Documents(context=7, select=select),
        lambda select: Documents(context=7, special=False, select=select),
        lambda select: Packed(context=16, select=select),
        lambda select: Packed(context=1, select=select),
    ],
    ids=["documents", "cut", "cut-plain", "packed", "packed-1"],
)
def test_rows_are_the_selected_tokens_of_each_sequence_and_all_tokens_stay(folder, make, selection):
    whole = list(Tokeniser(folder, None, make(msgspec.UNSET))(documents()))
    found = list(Tokeniser(folder, None, make(selection))(documents()))
    assert [span.n_rows for span in whole] == [len(span.input_ids) for span in whole]
    for one, other in zip(whole, found, strict=True):
        for field in ("sequence", "document", "key", "text", "text_begin"):
            assert getattr(one, field) == getattr(other, field)
        for field in ("input_ids", "begin", "end"):
            np.testing.assert_array_equal(getattr(one, field), getattr(other, field))
    for sequence in sequences(found):
        ids = np.concatenate([span.input_ids for span in sequence]).tolist()
        assert rows_of(sequence) == wanted(selection, ids)
        assert all(span.rows is None or span.rows.dtype == np.int32 for span in sequence)


@pytest.mark.parametrize("selection", SELECTIONS)
def test_ready_ids_and_chats_are_selected_alike(folder, selection):
    ids = [Document("a", Ids((5, 1, 9, 10, 3, 3))), Document("b", Ids(())), Document("c", Ids((2, 3)))]
    found = Tokeniser(folder, None, ReadyIds(context=4, select=selection))(ids)
    assert [rows_of([span]) for span in found] == [
        wanted(selection, one) for one in ((5, 1, 9, 10), (3, 3), (), (2, 3))
    ]
    chats = [Document(f"c:{n}", Messages(tuple(chat))) for n, chat in enumerate(CHATS)]
    for span in Tokeniser(folder, None, Chat(context=20, select=selection))(chats):
        assert rows_of([span]) == wanted(selection, span.input_ids.tolist())


@pytest.mark.parametrize("role", ROLES[1:])
@pytest.mark.parametrize("context", [None, 11])
def test_rows_of_a_role_are_its_messages_and_nothing_else(folder, role, context):
    chats = [Document(f"c:{n}", Messages(tuple(chat))) for n, chat in enumerate(CHATS)]
    found = list(Tokeniser(folder, None, Chat(context=context, select=OfRole(role=role)))(chats))
    for number, chat in enumerate(CHATS):
        mine = [span for span in found if span.document == number]
        rows = [span.begin[rows_of([span])] for span in mine]
        texts = "".join(span.text for span in mine)
        said = "".join(texts[character] for character in np.concatenate(rows))
        assert said == "".join(message["content"] for message in chat if message["role"] == role)


def test_a_sequence_of_special_tokens_alone_has_no_row(folder):
    for selection in (Content(), Last()):
        (span,) = Tokeniser(folder, None, Documents(select=selection))(documents([""]))
        assert (span.input_ids.tolist(), span.rows.tolist(), span.n_rows) == ([2, 3], [], 0)


def test_a_span_whose_tokens_are_all_rows_says_so(folder):
    (span,) = Tokeniser(folder, None, Documents(special=False, select=Content()))(documents(["abc"]))
    assert span.rows is None


def test_special_tokens_are_the_declared_and_the_added_ones_but_not_that_for_unknown_text(folder, tmp_path):
    tokenizer = Encoder(folder, None).tokenizer
    tokenizer.add_special_tokens({"unk_token": "<unk>"})
    tokenizer.add_tokens([AddedToken("<|turn|>", special=True), AddedToken("<plain>")])
    tokenizer.save_pretrained(tmp_path)
    encoder = Encoder(str(tmp_path), None)
    names = {encoder.tokenizer.convert_ids_to_tokens(int(token)) for token in encoder.special_ids()}
    assert names == {"<pad>", "<eos>", "<cls>", "<sep>", "<|turn|>"}
    tokenizer.add_special_tokens({"unk_token": "<eos>"})  # as GPT-2 has it
    tokenizer.save_pretrained(tmp_path)
    assert set(SPECIAL) <= set(Encoder(str(tmp_path), None).special_ids().tolist())


def test_ready_ids_need_a_tokenizer_only_to_know_special_tokens(tmp_path):
    GPT2Config(vocab_size=300).save_pretrained(tmp_path)
    found = Tokeniser(str(tmp_path), None, ReadyIds(select=Last(special=True)))([Document("a", Ids((5, 6)))])
    assert [span.rows.tolist() for span in found] == [[1]]
    for selection in (Content(), Last()):
        with pytest.raises(InputError, match=r"is for the tokenizer to say, and model .* has none: save it"):
            Tokeniser(str(tmp_path), None, ReadyIds(select=selection))


def test_without_a_selection_the_identity_is_what_it_was():
    for value in (Documents(context=8), Packed(context=8), Chat(context=8), ReadyIds(context=8)):
        assert b"select" not in canonical(value)
    assert json.loads(canonical(Documents(context=8))) == {"kind": "documents", "context": 8, "special": True}
    chosen = {"kind": "packed", "context": 8, "select": {"kind": "every", "n": 4}}
    assert json.loads(canonical(Packed(context=8, select=Every(n=4)))) == chosen


@pytest.mark.parametrize("value", [*(Documents(select=one) for one in SELECTIONS), Chat(select=OfRole(role="tool"))])
def test_a_selection_survives_json(value):
    assert msgspec.json.decode(msgspec.json.encode(value), type=Tokenisation) == value


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            {"kind": "documents", "select": {"kind": "rest"}},
            r"select\.kind: Invalid value 'rest': .*content, last, every",
        ),
        ({"kind": "documents", "select": {"kind": "role", "role": "user"}}, r"select\.kind: Invalid value 'role'"),
        (
            {"kind": "chat", "select": {"kind": "role", "role": "me"}},
            r"select\.role: Invalid enum value 'me': .*assistant",
        ),
        ({"kind": "documents", "select": {"kind": "every", "n": 1}}, r"select\.n: Expected `int` >= 2, found 1"),
        ({"kind": "documents", "select": {"kind": "every"}}, r"select: Object missing required field `n`"),
        ({"kind": "documents", "select": "last"}, r"select: Expected `object`, got `str`, found 'last'"),
    ],
)
def test_a_selection_that_is_none_is_refused_with_its_place(table, message):
    with pytest.raises(InputError, match=rf"^caches\.x\.tokenise\.{message}"):
        convert(table, Tokenisation, "caches.x.tokenise")


@pytest.mark.parametrize("kind", [Patches, Entries])
def test_images_and_vocabularies_have_no_selection(kind):
    assert "select" not in kind.__struct_fields__
