"""T7: the tokens that vocabularies of several families share, from caches of models with padded tables."""

import hashlib

import numpy as np
import pytest
import torch
from conftest import Doc
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from jobs.core.vocabulary import rows_of, shared_vocabulary, vocabulary
from jobs.geometry.points import Source, TokenMeans, choose
from pipeline.progress import Progress
from pipeline.run import run
from storage import InputError, Lake, Site
from tests.pipeline.tiny import read

GPT = ["a", "Ġcat", "dog", "Ġdog", "ing", "Ġthe", ",", "ĠÃ¼", "Ã", "<eos>", "cat"]
BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "cat", "dog", "##ing", "##dog", "the", ",", "ü", "[unused0]", "The"]
LLAMA = ["<unk>", "▁cat", "dog", "▁dog", "ing", "▁the", ",", "▁ü", "<0x41>", "A", "▁"]


def byte_level():
    inner = Tokenizer(models.BPE(vocab={piece: n for n, piece in enumerate(GPT)}, merges=[]))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    inner.add_tokens([" dog"])
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>")


def word_piece():
    inner = Tokenizer(models.WordPiece({piece: n for n, piece in enumerate(BERT)}, unk_token="[UNK]"))
    inner.normalizer, inner.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    names = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=inner, **names)


def llama_like():
    vocab = {piece: n for n, piece in enumerate(LLAMA)}
    inner = Tokenizer(models.BPE(vocab, [], byte_fallback=True, unk_token="<unk>"))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")


@pytest.fixture(scope="module")
def caches(tmp_path_factory):
    """A vocabulary cache of each family; every table has more rows than its tokenizer has tokens."""
    base = tmp_path_factory.mktemp("families")
    torch.manual_seed(0)
    sizes = {"n_embd": 8, "n_layer": 1, "n_head": 1, "n_positions": 8}
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    for name, tokenizer, model in (
        ("gpt", byte_level(), GPT2LMHeadModel(GPT2Config(vocab_size=16, **sizes))),
        ("bert", word_piece(), BertModel(BertConfig(vocab_size=20, max_position_embeddings=8, **small))),
        ("llama", llama_like(), GPT2LMHeadModel(GPT2Config(vocab_size=16, **sizes))),
        ("twin", byte_level(), GPT2LMHeadModel(GPT2Config(vocab_size=13, **sizes))),
    ):
        tokenizer.save_pretrained(base / name)
        model.save_pretrained(base / name)
    names = ("gpt", "bert", "llama", "twin")
    opened = read(
        {
            "lake": "lake",
            "models": {name: {"name": str(base / name)} for name in names},
            "corpora": {"tokens": {"vocabulary": True}},
            "caches": {name: {"model": name, "corpus": "tokens", "sites": ["embed"]} for name in names},
            "pool": {"kind": "local"},
        },
        base,
    )
    run(opened, Progress(live=False))
    lake = Lake(opened.lake)
    found = [lake.cache(name) for name in lake.caches()]
    return {cache.record.identity.model.name: cache for cache in found}


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        # " dog" is spelt by two ids of gpt; "a" begins a word in bert and not in gpt
        ("gpt", "bert", [b" cat", b" the", " ü".encode(), b",", b"dog", b"ing"]),
        ("gpt", "llama", [b" cat", b" the", " ü".encode(), b",", b"dog", b"ing"]),
        ("bert", "llama", [b" cat", b" dog", b" the", " ü".encode(), b",", b"dog", b"ing"]),
    ],
)
def test_families_meet_at_the_bytes_of_their_tokens(caches, first, second, expected):
    found = shared_vocabulary(caches[first], caches[second])
    assert found.spelt == sorted(expected)
    assert found.shared == len(expected)


def test_ids_are_those_of_the_tokens_in_each_vocabulary(caches):
    found = shared_vocabulary(caches["gpt"], caches["bert"])
    assert [GPT[token] for token in found.first_N] == ["Ġcat", "Ġthe", "ĠÃ¼", ",", "dog", "ing"]
    assert [BERT[token] for token in found.second_N] == ["cat", "the", "ü", ",", "##dog", "##ing"]
    assert found.sizes == (11, 9)  # without <eos>; without four special tokens and an unused one


def test_which_is_first_does_not_matter(caches):
    one, other = (shared_vocabulary(caches[a], caches[b], 4, 3) for a, b in (("gpt", "llama"), ("llama", "gpt")))
    assert (one.spelt, one.sha256, one.sizes) == (other.spelt, other.sha256, other.sizes[::-1])
    np.testing.assert_array_equal(one.first_N, other.second_N)


def test_the_draw_is_that_of_its_seed_and_its_hash_that_of_the_list(caches):
    found = shared_vocabulary(caches["bert"], caches["llama"], 3, 0)
    assert (len(found.spelt), found.shared) == (3, 7)
    assert found.spelt == sorted(found.spelt)
    assert found.sha256 == hashlib.sha256("\n".join(one.hex() for one in found.spelt).encode()).hexdigest()
    assert found.sha256 == shared_vocabulary(caches["bert"], caches["llama"], 3, 0).sha256
    assert len({shared_vocabulary(caches["bert"], caches["llama"], 3, seed).sha256 for seed in range(8)}) > 1


def test_one_tokenizer_means_the_same_by_its_ids(caches):
    found = shared_vocabulary(caches["gpt"], caches["twin"])
    np.testing.assert_array_equal(found.first_N, found.second_N)
    assert found.spelt.count(b" dog") == 2
    assert len(found.spelt) == 11
    assert found.spelt == sorted(found.spelt)


def test_bytes_and_special_tokens_come_where_they_are_asked_for(caches):
    kinds = ("text", "continuation", "byte", "special", "unused")
    found = shared_vocabulary(caches["bert"], caches["bert"], kinds=kinds)
    assert len(found.spelt) == len(BERT)
    assert vocabulary("llama", caches["llama"].tokens, "").spellings(("byte",)) == {8: b"A"}


def test_geometry_studies_the_tokens_that_vocabularies_share(caches):
    both = [
        Source(
            name, caches[name].site(Site.parse("embed")), caches[name].tokens, 0, caches[name].record.identity.tokenizer
        )
        for name in ("bert", "llama")
    ]
    found, expected = choose(TokenMeans(), both, 5, 1), shared_vocabulary(caches["bert"], caches["llama"], 5, 1)
    assert [bytes.fromhex(key) for key in found.keys] == expected.spelt
    assert (found.sha256, found.found, found.shared) == (expected.sha256, expected.sizes, expected.shared)
    np.testing.assert_array_equal(found.members[1], expected.second_N)
    alone = choose(TokenMeans(), both[:1], 100, 0)
    assert sorted(BERT[token] for token in alone.members[0]) == sorted([*BERT[4:12], "The"])


def test_rows_are_found_by_their_token(caches):
    tokens = caches["gpt"].tokens
    ids = np.array([7, 0, 3])
    np.testing.assert_array_equal(tokens.ids(rows_of(tokens, ids)), ids)


def test_too_few_shared_tokens_are_refused_with_both_counts(caches):
    with pytest.raises(InputError, match=r"\(11 tokens of text\) and .* \(9\) share 6 tokens, wanted at least 7: "):
        shared_vocabulary(caches["gpt"], caches["bert"], least=7)


def test_a_cache_that_is_no_vocabulary_is_refused(caches, make_cache):
    text = make_cache({"embed": np.eye(2, dtype=np.float32)}, [Doc("a b")])
    with pytest.raises(InputError, match="does not say how its tokens are spelt: name a cache of a corpus with"):
        shared_vocabulary(caches["gpt"], text)
