"""Documents become spans: every token once, every offset a character of the document."""

import itertools
import json

import msgspec
import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, BertConfig, ByT5Tokenizer, GPT2Config, LlamaConfig, PreTrainedTokenizerFast

from storage.errors import InputError, RunError
from workers.document import Document, Image, Messages, Text
from workers.document import Ids as InputIds
from workers.tokens import Chat, Documents, Entries, Ids, Packed, Tokenisation, Tokeniser

TEXTS = (
    "The cat sat on the mat.",
    "",
    "a",
    "Grüße aus Köln, naïve café: 日本語のテキスト 👩‍👩‍👧 e\u0301 🙂🙂 done",
    "line one\r\nline two\r\n\r\n  indented\ttabbed   spaced  ",
    "The cat sat. " * 40,
    "   ",
    "🙂",
)
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>{% endfor %}"


def byte_level() -> tuple[Tokenizer, dict]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=330, initial_alphabet=alphabet, special_tokens=["<eos>"], show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer, {"eos_token": "<eos>"}


def word_piece() -> tuple[Tokenizer, dict]:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    trainer = trainers.WordPieceTrainer(vocab_size=120, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.enable_truncation(8)  # as sentence encoders are saved: both must be undone
    tokenizer.enable_padding(length=8)
    return tokenizer, {"sep_token": "[SEP]", "cls_token": "[CLS]", "unk_token": "[UNK]", "pad_token": "[PAD]"}


def llama_like() -> tuple[Tokenizer, dict]:
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=special, limit_alphabet=20, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    plain = json.loads(tokenizer.to_str())  # byte tokens belong to the model, not to the added ones
    plain["added_tokens"] = plain["added_tokens"][:3]
    tokenizer = Tokenizer.from_str(json.dumps(plain))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


FAMILIES = {
    "byte-level": (byte_level, GPT2Config),
    "word-piece": (word_piece, BertConfig),
    "llama-like": (llama_like, LlamaConfig),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, str]:
    """Model folders that hold a configuration and a tokenizer, one per family."""
    made = {}
    for family, (build, config) in FAMILIES.items():
        folder = tmp_path_factory.mktemp(family)
        tokenizer, special = build()
        fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=16, **special)
        if family == "llama-like":
            fast.chat_template = TEMPLATE
        fast.save_pretrained(folder)
        config(vocab_size=len(fast) + 5).save_pretrained(folder)
        made[family] = str(folder)
    return made


def documents(texts=TEXTS) -> list[Document]:
    return [Document(f"doc:{n}", Text(text), {"n": n}) for n, text in enumerate(texts)]


def spans(folder: str, tokenisation: Tokenisation, given) -> list:
    return list(Tokeniser(folder, None, tokenisation)(given))


def numbered_in_order(found) -> bool:
    """Sequences and documents start at 0 and go up by at most 1."""
    pairs = [(span.sequence, span.document) for span in found]
    steps = [(b[0] - a[0], b[1] - a[1]) for a, b in itertools.pairwise(pairs)]
    return pairs[0] == (0, 0) and all(step in {(0, 1), (1, 0), (1, 1)} for step in steps)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_uncut_document_has_the_tokens_and_offsets_that_the_tokenizer_gives_it_alone(folders, family):
    tokenizer = AutoTokenizer.from_pretrained(folders[family])
    found = spans(folders[family], Documents(), documents())
    assert [span.key for span in found] == [f"doc:{n}" for n in range(len(TEXTS))]
    for span, text in zip(found, TEXTS, strict=True):
        alone = tokenizer(text, return_offsets_mapping=True, truncation=False, padding=False, verbose=False)
        assert span.input_ids.tolist() == alone["input_ids"]
        assert span.input_ids.dtype == span.begin.dtype == span.end.dtype == np.int32
        special = np.isin(span.input_ids, tokenizer.all_special_ids) & (span.begin == span.end)
        offsets = np.stack([span.begin, span.end], 1)[~special]
        assert offsets.tolist() == np.array(alone["offset_mapping"]).reshape(-1, 2)[~special].tolist()
        assert (span.text, span.text_begin, span.labels["n"]) == (text, 0, TEXTS.index(text))


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("context", [3, 4, 7, 64])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_token_of_every_document_appears_once_whatever_the_context(folders, family, context, special):
    whole = spans(folders[family], Documents(special=False), documents())
    cut = spans(folders[family], Documents(context=context, special=special), documents())
    n_affixes = {"byte-level": 0, "word-piece": 2, "llama-like": 1}[family] * special
    n_prefix = int(n_affixes > 0)
    assert numbered_in_order(cut)
    assert [span.sequence for span in cut] == list(range(len(cut)))
    for number, span in enumerate(whole):
        pieces = [piece for piece in cut if piece.document == number]
        inner = [piece.input_ids[n_prefix : len(piece.input_ids) - (n_affixes - n_prefix)] for piece in pieces]
        assert np.concatenate(inner).tolist() == span.input_ids.tolist()
        assert all(len(piece.input_ids) == context for piece in pieces[:-1])
        assert all(len(piece.input_ids) <= context for piece in pieces)


@pytest.mark.parametrize("make", [lambda n: Documents(context=n), lambda n: Packed(context=n)])
@pytest.mark.parametrize("context", [3, 5, 11, 1000])
@pytest.mark.parametrize("family", FAMILIES)
def test_texts_of_spans_lie_at_their_offsets_and_cover_the_document(folders, family, context, make):
    found = spans(folders[family], make(context), documents())
    for number, text in enumerate(TEXTS):
        covered = 0
        for span in (span for span in found if span.document == number):
            stop = span.text_begin + len(span.text)
            assert span.text == text[span.text_begin : stop]
            assert span.text_begin <= covered
            covered = max(covered, stop)
            assert np.all((span.text_begin <= span.begin) & (span.begin <= span.end) & (span.end <= stop))
        assert covered == len(text)


def test_byte_tokens_of_one_character_share_its_span(folders):
    for family in ("byte-level", "llama-like"):
        tokeniser = Tokeniser(folders[family], None, Documents(context=2, special=False))
        found = list(tokeniser(documents(["x\u2603y"])))  # no text taught a token with a snowman
        begin, end = (np.concatenate([getattr(span, side) for span in found]) for side in ("begin", "end"))
        bytes_of_snowman = (begin == 1) & (end == 2)
        assert bytes_of_snowman.sum() == 3
        assert all("\u2603" in span.text for span in found if np.any((span.begin == 1) & (span.end == 2)))


def test_normalised_text_keeps_the_offsets_of_the_document(folders):
    (span,) = spans(folders["word-piece"], Documents(special=False), documents(["Köln THE"]))
    words = [span.text[b:e] for b, e in zip(span.begin, span.end, strict=True)]
    assert "".join(words) == "KölnTHE"


@pytest.mark.parametrize("special", [True, False])
def test_an_empty_document_has_only_its_special_tokens(folders, special):
    (span,) = spans(folders["word-piece"], Documents(special=special), documents([""]))
    assert span.input_ids.tolist() == ([2, 3] if special else [])
    assert span.begin.tolist() == span.end.tolist() == ([0, 0] if special else [])
    assert (span.text, span.text_begin) == ("", 0)


def test_special_tokens_stand_at_the_ends_of_their_sequence(folders):
    found = spans(folders["word-piece"], Documents(context=5), documents(["the cat sat on the mat the cat"]))
    assert len(found) > 1
    for span in found:
        stop = span.text_begin + len(span.text)
        assert (span.begin[0], span.end[0], span.begin[-1], span.end[-1]) == (
            span.text_begin,
            span.text_begin,
            stop,
            stop,
        )


@pytest.mark.parametrize("context", [1, 2, 7, 50, 100_000])
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_windows_are_full_and_hold_every_document_and_its_separator(folders, family, context):
    separator = {"byte-level": 0, "word-piece": 3, "llama-like": 2}[family]
    whole = spans(folders[family], Documents(special=False), documents())
    packed = spans(folders[family], Packed(context=context), documents())
    stream = [token for span in whole for token in (*span.input_ids.tolist(), separator)]
    assert [token for span in packed for token in span.input_ids.tolist()] == stream
    assert numbered_in_order(packed)
    lengths = [
        sum(len(span.input_ids) for span in window)
        for _, window in itertools.groupby(packed, key=lambda span: span.sequence)
    ]
    assert set(lengths[:-1]) <= {context}
    assert 0 < lengths[-1] <= context
    assert {span.document for span in packed} == set(range(len(TEXTS)))


def test_many_documents_and_long_ones_pass_through_in_order(folders):
    texts = [f"the cat {n}" for n in range(700)] + ["The cat sat. " * 20_000] + ["end"]
    found = spans(folders["byte-level"], Documents(context=10_000), documents(texts))
    assert numbered_in_order(found)
    assert found[-1].document == len(texts) - 1
    assert "".join(span.text for span in found) == "".join(texts)


def test_long_documents_are_not_warned_of_and_other_logs_are_left_alone(folders, caplog):
    import logging

    found = spans(folders["byte-level"], Documents(), documents(["word " * 500]))
    assert len(found[0].input_ids) > 16
    logging.getLogger("transformers").warning("still heard")
    assert [record.message for record in caplog.records if "longer than" in record.message] == []


def test_no_documents_give_no_spans(folders):
    for tokenisation in (Documents(), Packed(context=4)):
        assert spans(folders["byte-level"], tokenisation, []) == []


def test_a_chat_is_written_by_the_template_and_offsets_point_into_what_was_written(folders):
    messages = ({"role": "user", "content": "Grüß 🙂"}, {"role": "assistant", "content": "the cat"})
    found = spans(folders["llama-like"], Chat(context=6), [Document("c", Messages(messages), {"a": True})])
    written = "<user>Grüß 🙂<end><assistant>the cat<end>"
    tokenizer = AutoTokenizer.from_pretrained(folders["llama-like"])
    expected = tokenizer(written, add_special_tokens=False, verbose=False)["input_ids"]
    assert np.concatenate([span.input_ids for span in found]).tolist() == expected
    assert all(span.text == written[span.text_begin : span.text_begin + len(span.text)] for span in found)
    assert found[0].labels == {"a": True}


def test_a_chat_that_the_template_refuses_is_named(folders, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(folders["llama-like"])
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(RunError, match=r"document c:7: .*roles must alternate"):
        spans(str(tmp_path), Chat(), [Document("c:7", Messages(({"role": "user", "content": "a"},)))])


def test_a_tokenizer_without_template_is_refused_for_chats(folders):
    with pytest.raises(InputError, match="has no chat template"):
        Tokeniser(folders["byte-level"], None, Chat())


def test_ready_ids_are_cut_as_they_are(folders):
    found = spans(
        folders["byte-level"], Ids(context=3), [Document("a", InputIds((5, 6, 7, 8))), Document("b", InputIds(()))]
    )
    assert [span.input_ids.tolist() for span in found] == [[5, 6, 7], [8], []]
    assert [(span.sequence, span.document) for span in found] == [(0, 0), (1, 0), (2, 1)]
    assert all(span.begin is None and span.end is None and span.text is None for span in found)


@pytest.mark.parametrize("token", [-1, 10**12])
def test_ready_ids_outside_the_vocabulary_are_refused_by_name(folders, token):
    with pytest.raises(RunError, match=rf"document a:3: input id {token} is outside the model's vocabulary"):
        spans(folders["byte-level"], Ids(), [Document("a:3", InputIds((1, token)))])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_vocabulary_has_a_sequence_per_token_that_the_tokenizer_has(folders, family):
    tokenizer = AutoTokenizer.from_pretrained(folders[family])
    found = spans(folders[family], Entries(), [])
    assert [span.input_ids.tolist() for span in found] == [[token] for token in range(len(tokenizer))]
    assert [span.key for span in found] == [str(token) for token in range(len(tokenizer))]
    assert [span.sequence for span in found] == [span.document for span in found] == list(range(len(tokenizer)))
    assert all(span.end[0] == len(span.text) for span in found)
    assert {"cat", " cat", "ca"} & {span.text for span in found}


def test_tokens_that_the_model_has_no_row_for_are_no_entries(folders, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(folders["byte-level"])
    GPT2Config(vocab_size=len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.add_tokens([AddedToken("<late>")])
    tokenizer.save_pretrained(tmp_path)
    assert len(spans(str(tmp_path), Entries(), [])) == len(tokenizer) - 1


@pytest.mark.parametrize("context", [None, 4])
def test_a_slow_tokenizer_tells_offsets_by_decoding_where_that_is_exact(tmp_path, context):
    ByT5Tokenizer().save_pretrained(tmp_path)
    found = spans(str(tmp_path), Documents(context=context, special=False), documents(["plain text", "naïve", ""]))
    plain = [span for span in found if span.document == 0]
    assert np.concatenate([span.begin for span in plain]).tolist() == list(range(10))
    assert "".join(span.text for span in plain) == "plain text"
    assert all(span.begin is None and span.end is None for span in found if span.document == 1)
    assert found[-1].begin.tolist() == []


def test_a_slow_tokenizer_adds_its_special_tokens_too(tmp_path):
    ByT5Tokenizer().save_pretrained(tmp_path)
    (span,) = spans(str(tmp_path), Documents(), documents(["ab"]))
    assert span.input_ids.tolist() == [ord("a") + 3, ord("b") + 3, 1]
    assert span.begin.tolist() == [0, 1, 2]


def test_a_context_must_leave_room_for_text(folders):
    for kind in (Documents, Packed, Chat, Ids):
        with pytest.raises(ValueError, match="at least 1 token, found 0"):
            kind(context=0)
    with pytest.raises(InputError, match=r"context 2 leaves no room for text: .* adds 2 special"):
        Tokeniser(folders["word-piece"], None, Documents(context=2))


def test_a_tokenizer_without_a_separator_cannot_pack(tmp_path):
    tokenizer, _ = byte_level()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="neither an eos nor a sep token"):
        Tokeniser(str(tmp_path), None, Packed(context=4))


@pytest.mark.parametrize("config", [BertConfig, GPT2Config, LlamaConfig])
def test_a_folder_without_tokenizer_is_refused(tmp_path, config):
    config().save_pretrained(tmp_path)
    for tokenisation in (Documents(), Packed(context=3), Entries()):
        with pytest.raises(InputError, match="has no tokenizer"):
            Tokeniser(str(tmp_path), None, tokenisation)


def test_a_source_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(InputError, match="has no tokenizer"):
        Tokeniser(str(tmp_path / "none"), None, Documents())


@pytest.mark.parametrize("tokenisation", [Documents(), Packed(context=3), Ids()])
def test_content_of_another_kind_is_refused_by_name(folders, tokenisation):
    with pytest.raises(InputError, match="document i:0 holds Image, and this tokenisation takes"):
        spans(folders["byte-level"], tokenisation, [Document("i:0", Image(b""))])


def test_a_tokenisation_survives_json_with_its_kind():
    for value in (Documents(context=8, special=False), Packed(context=8), Chat(), Ids(context=2), Entries()):
        data = msgspec.json.encode(value)
        assert json.loads(data)["kind"] == type(value).__name__.lower()
        assert msgspec.json.decode(data, type=Tokenisation) == value
