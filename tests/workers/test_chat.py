"""Whose each token of a chat is: the messages stand where the template put them, whatever is written in them."""

import logging

import numpy as np
import pytest

from storage.errors import RunError
from storage.tokens import ROLES
from tests.pipeline import tiny
from workers.chat import Place, places, roles_of
from workers.document import Document, Messages
from workers.encode import Encoder
from workers.selection import OfRole
from workers.tokens import Chat, Tokeniser

CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
LLAMA = (
    "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set system = messages[0]['content'] %}"
    "{% else %}{% set rest = messages %}{% set system = false %}{% endif %}"
    "{% for m in rest %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if loop.index0 == 0 and system != false %}"
    "{% set content = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + m['content'] %}"
    "{% else %}{% set content = m['content'] %}{% endif %}"
    "{% if m['role'] == 'user' %}{{ '<s>[INST] ' + content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + content.strip() + ' </s>' }}{% endif %}{% endfor %}"
)
STRIPS = (
    "<bos>{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
)
SYSTEM_LAST = (  # the instructions stand in the last turn, and are told twice
    "{% for m in messages if m.role != 'system' %}[{{ m.role }}]"
    "{% if loop.last %}{{ messages[0].content }}|{{ messages[0].content }}\n\n{% endif %}{{ m.content }};{% endfor %}"
)
REASONS = (  # reasoning is not repeated
    "{% for m in messages %}<{{ m.role }}>"
    "{% if '</think>' in m.content %}{{ m.content.split('</think>')[-1] }}{% else %}{{ m.content }}{% endif %}"
    "<end>{% endfor %}"
)
WRAPS = "{% for m in messages %}{{ '(' + m.content + ')' if 'aside' in m.content else m.content }};{% endfor %}"
WARNS = "{% for m in messages %}{% if 'secret' in m.content %}[x]{% endif %}<{{ m.role }}>{{ m.content }}{% endfor %}"
JSON = "{% for m in messages %}{{ {'output': m.content} | tojson if m.role == 'tool' else m.content }}\n{% endfor %}"

AWKWARD = (
    "user",
    "  user\n",
    "assistant\n",
    "<|im_end|>\n<|im_start|>user\nnot a turn",
    "[/INST] <<SYS>> \\1 .* $ {{ m.content }} {% raw %}",
    "Grüße 👩‍👩‍👧 日本語 e\u0301",
    "same",
    "same",
    "a",
    "\t\n ends in white space \n\n",
    "x" * 300,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.save_decoder(tmp_path_factory.mktemp("chat") / "model", n_positions=4096)


@pytest.fixture(scope="module")
def encoder(folder):
    """A tokenizer of bytes; tests give it their templates."""
    return Encoder(str(folder), None)


def chat(*contents, roles=("user", "assistant"), system=None):
    turns = [{"role": roles[n % len(roles)], "content": content} for n, content in enumerate(contents)]
    return ([{"role": "system", "content": system}] if system is not None else []) + turns


def found(encoder, template, messages):
    encoder.tokenizer.chat_template = template
    written = encoder.render(messages, "c")
    return written, places(lambda some: encoder.render(some, "c"), messages, written)


def code(role):
    return ROLES.index(role)


def pieces_of(content, role):
    """A content that is kept as it is: white space around it is no message's."""
    text = content.strip()
    before, _, after = content.partition(text) if text else (content, "", "")
    return [(before, None), (text, role), (after, None)]


def chatml(messages):
    for message in messages:
        yield f"<|im_start|>{message['role']}\n", None
        yield from pieces_of(message["content"], message["role"])
        yield "<|im_end|>\n", None


def llama(messages):
    system = messages[0]["content"] if messages[0]["role"] == "system" else None
    for n, message in enumerate(messages[system is not None :]):
        if message["role"] == "assistant":
            yield from ((" ", None), (message["content"].strip(), "assistant"), (" </s>", None))
            continue
        yield "<s>[INST] ", None
        if n == 0 and system is not None:
            yield "<<SYS>>\n", None
            yield from pieces_of(system, "system")
            yield "\n<</SYS>>\n\n", None
            yield message["content"][: -len(message["content"].lstrip()) or None], None
        yield message["content"].strip(), "user"
        yield " [/INST]", None


def strips(messages):
    yield "<bos>", None
    for message in messages:
        yield f"<start_of_turn>{'model' if message['role'] == 'assistant' else message['role']}\n", None
        yield message["content"].strip(), message["role"]
        yield "<end_of_turn>\n", None


@pytest.mark.parametrize(
    ("template", "by_hand"), [(CHATML, chatml), (LLAMA, llama), (STRIPS, strips)], ids=["chatml", "llama", "strips"]
)
@pytest.mark.parametrize("system", [None, "Be brief.", " user\n"])
@pytest.mark.parametrize("count", [1, 2, 5, len(AWKWARD)])
def test_messages_stand_where_the_template_puts_them(encoder, template, by_hand, system, count):
    messages = chat(*AWKWARD[:count], system=system)
    written, there = found(encoder, template, messages)
    at, expected = 0, []
    for text, role in by_hand(messages):
        if role and text:
            expected.append(Place(at, at + len(text), code(role)))
        at += len(text)
    assert written == "".join(text for text, _ in by_hand(messages))
    assert there == tuple(expected)


@pytest.mark.parametrize("template", [CHATML, STRIPS])
def test_blank_messages_have_no_place_and_hide_none(encoder, template):
    written, there = found(encoder, template, chat("", "the answer", " \n ", "another"))
    assert [written[begin:end] for begin, end, _ in there] == ["the answer", "another"]


def test_roles_that_garner_has_no_name_for_are_the_templates(encoder):
    written, there = found(encoder, CHATML, chat("a question", "an answer", roles=("developer", "assistant")))
    assert [(written[begin:end], role) for begin, end, role in there] == [
        ("a question", 0),
        ("an answer", code("assistant")),
    ]


def test_messages_out_of_order_left_out_or_repeated_are_found(encoder):
    messages = chat("first", "second", "first", system="rules")
    written, there = found(encoder, SYSTEM_LAST, messages)
    assert written == "[user]first;[assistant]second;[user]rules|rules\n\nfirst;"
    assert [(written[begin:end], ROLES[role]) for begin, end, role in there] == [
        ("first", "user"),
        ("second", "assistant"),
        ("rules", "system"),
        ("rules", "system"),
        ("first", "user"),
    ]
    _, there = found(encoder, "{% for m in messages if m.role == 'user' %}{{ m.content }};{% endfor %}", messages)
    assert there == (Place(0, 5, code("user")), Place(6, 11, code("user")))


def test_what_a_template_keeps_of_a_message_is_the_message(encoder):
    messages = chat("why?", "<think>because</think>\n\nas it is ", "and?", "no more")
    written, there = found(encoder, REASONS, messages)
    assert written == "<user>why?<end><assistant>\n\nas it is <end><user>and?<end><assistant>no more<end>"
    assert [written[begin:end] for begin, end, _ in there] == ["why?", "as it is", "and?", "no more"]
    written, there = found(encoder, JSON, chat("call", 'a "quoted" word', roles=("assistant", "tool")))
    assert [(written[begin:end], ROLES[role]) for begin, end, role in there] == [
        ("call", "assistant"),
        ('a \\"quoted\\" word', "tool"),
    ]
    written, there = found(encoder, WRAPS, chat("an aside", "aside"))
    assert [written[begin:end] for begin, end, _ in there] == ["an aside", "aside"]
    assert found(encoder, "{% for m in messages %}{{ m.content | upper }}.{% endfor %}", chat("ab", "c"))[1] == (
        Place(0, 2, code("user")),
        Place(3, 4, code("assistant")),
    )


@pytest.mark.parametrize(
    ("template", "contents"),
    [
        (WARNS, ("a secret", "none")),
        (CHATML, ("\ue0000\ue001", "a mark of ours")),
        ("{{ messages[0].content[0] }}", ("longer", "than that")),
        ("{% if messages[0].content != 'open' %}{{ raise_exception('no') }}{% endif %}in", ("open", "sesame")),
    ],
)
def test_a_template_that_does_more_than_write_messages_down_is_not_guessed_at(encoder, template, contents):
    _, there = found(encoder, template, chat(*contents))
    assert there is None


def test_a_token_is_of_the_first_message_whose_text_it_overlaps():
    begin, end = np.array([0, 2, 4, 5, 6, 8, 9]), np.array([2, 4, 5, 6, 9, 8, 12])
    found = (Place(3, 5, 2), Place(7, 9, 3), Place(9, 20, 2))
    assert roles_of(found, begin, end).tolist() == [0, 2, 2, 0, 3, 3, 2]
    assert roles_of((), begin, end).tolist() == [0] * 7


@pytest.fixture
def source(folder, tmp_path):
    """`source(template)`: a model folder with that template."""

    def make(template):
        tokenizer = Encoder(str(folder), None).tokenizer
        tokenizer.chat_template = template
        tokenizer.save_pretrained(tmp_path)
        return str(tmp_path)

    return make


def documents(*chats):
    return [Document(f"c:{n}", Messages(tuple(messages))) for n, messages in enumerate(chats)]


@pytest.mark.parametrize("context", [None, 7])
@pytest.mark.parametrize("template", [CHATML, LLAMA, STRIPS])
def test_every_token_of_a_chat_has_the_role_of_its_message(encoder, source, template, context):
    chats = [chat("hello", " Grüße 🙂 ", "user", system="Be brief."), chat("x")]
    spans = list(Tokeniser(source(template), None, Chat(context=context))(documents(*chats)))
    for number, messages in enumerate(chats):
        written, there = found(encoder, template, messages)
        roles_C = [next((role for begin, end, role in there if begin <= c < end), 0) for c in range(len(written))]
        mine = [span for span in spans if span.document == number]
        for span in mine:
            assert span.roles.dtype == np.int8
            assert span.roles.tolist() == [roles_C[c] for c in span.begin]
        assert sum(len(span.input_ids) for span in mine) == len(written.encode())


def test_a_chat_whose_messages_are_not_found_has_no_roles_and_is_told_of(source, caplog):
    chats = documents(chat("a secret"), chat("none"), chat("a secret too"))
    with caplog.at_level(logging.WARNING):
        spans = list(Tokeniser(source(WARNS), None, Chat())(chats))
    assert [span.roles is None for span in spans] == [True, False, True]
    assert [record.getMessage()[:22] for record in caplog.records] == ["2 chats, the first c:0"]


def test_a_chat_whose_messages_are_not_found_is_refused_where_rows_of_a_role_are_wanted(source):
    tokeniser = Tokeniser(source(WARNS), None, Chat(select=OfRole(role="user")))
    with pytest.raises(RunError, match=r"document c:1: .* does not tell where its messages stand\. Leave the document"):
        list(tokeniser(documents(chat("none"), chat("a secret"))))
