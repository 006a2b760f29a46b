"""Tokens of every family come out as the bytes they stand for."""

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from workers.encode import Encoder
from workers.vocabulary import entries


def byte_level(pieces):
    inner = Tokenizer(models.BPE(vocab={piece: n for n, piece in enumerate(pieces)}, merges=[]))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return inner


def word_piece(pieces):
    inner = Tokenizer(models.WordPiece({piece: n for n, piece in enumerate(pieces)}, unk_token="[UNK]"))
    inner.normalizer, inner.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    return inner


def llama_like(pieces):
    inner = Tokenizer(
        models.BPE({piece: n for n, piece in enumerate(pieces)}, [], byte_fallback=True, unk_token="<unk>")
    )
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return inner


def unigram(pieces):
    inner = Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=0, byte_fallback=True))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return inner


def words(pieces):
    inner = Tokenizer(models.WordLevel({piece: n for n, piece in enumerate(pieces)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return inner


def suffixed(pieces):
    inner = Tokenizer(models.BPE({piece: n for n, piece in enumerate(pieces)}, [], end_of_word_suffix="</w>"))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.Whitespace(), decoders.BPEDecoder()
    return inner


def spelt(inner, folder, size=1000, **special):
    """Kind and bytes by piece, after the tokenizer was saved and loaded as a model's is."""
    PreTrainedTokenizerFast(tokenizer_object=inner, **special).save_pretrained(folder)
    encoder = Encoder(str(folder), None)
    names = {token: piece for piece, token in encoder.tokenizer.get_vocab().items()}
    return {names[entry.token]: (entry.kind, entry.spelt) for entry in entries(encoder, size)}


def test_byte_level_tokens_are_their_bytes(tmp_path):
    pieces = ["a", "cat", "Ġcat", "Cat", "ĊĊ", "Ã¼", "Ã", "Ġ", "<eos>"]
    assert spelt(byte_level(pieces), tmp_path, eos_token="<eos>") == {
        "a": ("text", b"a"),
        "cat": ("text", b"cat"),
        "Ġcat": ("text", b" cat"),
        "Cat": ("text", b"Cat"),
        "ĊĊ": ("text", b"\n\n"),
        "Ã¼": ("text", "ü".encode()),
        "Ã": ("text", b"\xc3"),
        "Ġ": ("text", b" "),
        "<eos>": ("special", b"<eos>"),
    }


def test_word_pieces_begin_words_go_on_with_them_or_stand_alone(tmp_path):
    pieces = ["[UNK]", "[CLS]", "a", "cat", "##ing", "##", ",", "中", "[unused7]", "##,"]
    assert spelt(word_piece(pieces), tmp_path, unk_token="[UNK]", cls_token="[CLS]") == {
        "[UNK]": ("special", b"[UNK]"),
        "[CLS]": ("special", b"[CLS]"),
        "a": ("text", b" a"),
        "cat": ("text", b" cat"),
        "##ing": ("continuation", b"ing"),
        "##": ("text", b"##"),
        ",": ("text", b","),
        "中": ("text", "中".encode()),
        "[unused7]": ("unused", b"[unused7]"),
        "##,": ("continuation", b","),
    }


@pytest.mark.parametrize("family", [llama_like, unigram])
def test_sentencepiece_writes_spaces_as_blocks_and_lone_bytes_in_hex(tmp_path, family):
    pieces = ["<unk>", "▁cat", "cat", "▁", "▁▁", "<0x41>", "<0xE2>", "<unused3>", "<|reserved_9|>", "a", "▁a"]
    found = spelt(family(pieces), tmp_path, unk_token="<unk>")
    assert found == {
        "<unk>": ("special", b"<unk>"),
        "▁cat": ("text", b" cat"),
        "cat": ("text", b"cat"),
        "▁": ("text", b" "),
        "▁▁": ("text", b"  "),
        "<0x41>": ("byte", b"A"),
        "<0xE2>": ("byte", b"\xe2"),
        "<unused3>": ("unused", b"<unused3>"),
        "<|reserved_9|>": ("unused", b"<|reserved_9|>"),
        "a": ("text", b"a"),
        "▁a": ("text", b" a"),
    }


def test_whole_words_come_after_a_space_and_punctuation_does_not(tmp_path):
    found = spelt(words(["[UNK]", "a", "cat", "."]), tmp_path, unk_token="[UNK]")
    assert found == {
        "[UNK]": ("special", b"[UNK]"),
        "a": ("text", b" a"),
        "cat": ("text", b" cat"),
        ".": ("text", b"."),
    }


def test_a_mark_at_the_end_of_words_is_the_space_after_them(tmp_path):
    found = spelt(suffixed(["a", "cat", "cat</w>"]), tmp_path)
    assert found == {"a": ("text", b"a"), "cat": ("text", b"cat"), "cat</w>": ("text", b"cat ")}


def test_added_tokens_are_literal_text_unless_they_are_special(tmp_path):
    inner = byte_level(["a", "<eos>"])
    inner.add_tokens(["<b>ü"])
    inner.add_special_tokens(["<|im|>"])
    found = spelt(inner, tmp_path, eos_token="<eos>")
    assert found["<b>ü"] == ("text", "<b>ü".encode())
    assert found["<|im|>"] == ("special", b"<|im|>")


def test_ids_beyond_the_table_have_no_entry(tmp_path):
    assert list(spelt(byte_level(["a", "b", "c"]), tmp_path, size=2)) == ["a", "b"]


def test_a_tokenizer_in_python_says_how_its_tokens_read(tmp_path):
    ByT5Tokenizer(extra_ids=2).save_pretrained(tmp_path)
    encoder = Encoder(str(tmp_path), None)
    found = {entry.text: (entry.kind, entry.spelt) for entry in entries(encoder, 400)}
    assert found["a"] == ("text", b"a")
    assert found["</s>"] == ("special", b"</s>")
