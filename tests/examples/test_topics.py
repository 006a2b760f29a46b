"""The language of examples/topics.py, and what its two models make of it."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from examples import shared_geometry, topics
from pipeline.__main__ import main as garner
from storage import Lake


def test_documents_alternate_between_function_words_and_words_of_their_topic():
    documents = topics.texts(3, 200)
    for one in documents:
        words = one["text"].split()
        assert topics.SHORTEST <= len(words) < topics.WINDOW
        assert all(word.startswith("of") for word in words[::2])
        assert all(word[:-2] == one["topic"] for word in words[1::2])
    assert {one["topic"] for one in documents} == set(topics.TOPICS)
    assert documents == topics.texts(3, 200) != topics.texts(4, 200)


def test_words_fall_by_zipfs_law_and_function_words_follow_their_chain():
    language = topics.Language()
    ids = language.documents(np.zeros(4000, np.int64), 23, np.random.default_rng(0)) - len(topics.SPECIAL)
    counts = np.bincount(ids[:, 1::2].ravel(), minlength=topics.N_WORDS)
    np.testing.assert_allclose(counts / counts.sum(), language.zipf, atol=0.01)
    function = ids[:, ::2] - len(language.topic_words)
    successors, _ = language.follow
    assert all((function[:, at + 1, None] == successors[function[:, at]]).any(1).all() for at in range(11))


def test_texts_are_written_whole(tmp_path):
    path = topics.write(tmp_path / "deep" / "texts.jsonl", topics.texts(0, 3))
    assert [json.loads(line) for line in path.read_text().splitlines()] == topics.texts(0, 3)


@pytest.mark.parametrize("pair", ["tied", "untied"])
def test_trained_models_know_the_language(pairs, pair):
    """The language's own chances leave two and a half nats a token; how often each falls, and no more, 5.8."""
    models = getattr(pairs, pair).models
    for name, size in topics.SIZES.items():
        tokenizer = AutoTokenizer.from_pretrained(models / name)
        model = AutoModelForCausalLM.from_pretrained(models / name)
        assert model.config.hidden_size == size.width
        ids = torch.tensor(
            [ids for one in topics.texts(9, 400) if len(ids := tokenizer(one["text"])["input_ids"]) == 24]
        )
        assert (ids[:, 0] == 1).all()
        with torch.no_grad():
            assert model(ids, labels=ids).loss < 2.7
        tables = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        assert torch.equal(*tables) == (pair == "tied")


def test_caches_of_a_pair_hold_tables_and_labelled_states(pairs):
    tied = pairs.tied
    for cache, width in ((tied.narrow_vocabulary, 48), (tied.wide_vocabulary, 64)):
        assert [str(site) for site in cache.sites] == ["embed", "unembed"]
        assert cache.site("embed").shape == cache.site("unembed").shape == (512, width)
    assert tied.narrow_texts.tokens.n_documents == tied.wide_texts.tokens.n_documents == 1500
    assert "resid.2" in [str(site) for site in tied.wide_texts.sites]
    assert set(tied.wide_texts.tokens.label("topic")) == set(topics.TOPICS)


def test_the_recipe_of_shared_geometry_runs_from_end_to_end(pairs, tmp_path, capsys):
    """`make geometry` on models that are trained already: every job leaves its artifact."""
    for pair in ("tied", "untied"):
        assert getattr(pairs, pair).models.is_dir()
    topics.write(tmp_path / "texts.jsonl", topics.texts(0, 600))
    names = {
        "narrow": "tied/narrow",
        "wide": "tied/wide",
        "untied_narrow": "untied/narrow",
        "untied_wide": "untied/wide",
    }
    changes = {f"models.{name}.name": str(pairs.trained / path) for name, path in names.items()} | {
        "lake": str(tmp_path / "lake"),
        "corpora.texts.files": str(tmp_path / "texts.jsonl"),
        "pool": '{ kind = "local" }',
    }
    flags = [word for key, value in changes.items() for word in ("--set", f"{key}={value}")]
    assert garner(["run", str(shared_geometry.RECIPE), *flags]) == 0
    lines = list(shared_geometry.headlines(Lake(str(tmp_path / "lake"))))
    kinds = [line.partition(":")[0] for line in lines]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "contrast": 3,
        "emb2emb": 1,
        "geometry": 3,
        "persistence": 3,
        "steering": 2,
    }
    assert "steer_last" in capsys.readouterr().out
