"""What a judge says is scored on documents it was not shown, beside what it said of other features."""

import numpy as np
import pytest
import torch
from conftest import Doc, build_cache

from jobs.sae.codes import Dense
from jobs.sae.detectors import finding_half
from jobs.sae.examples import AFTER, BEFORE, STRONGEST, Example, contexts_table, gather
from jobs.sae.interpret import Evidence, Excerpt, TokenJudge, interpret
from jobs.sae.observed import Observed
from storage import Lake

WORDS = [f"{a}{b}" for a in "bdfgklmprstvz" for b in "aeiou"]
PLANTED = {0: ["ba"], 1: ["de"], 2: ["fo", "ku"], 3: ["mi"], 4: ["ra"]}
LEVEL, CHANCE, RARE = 4, 5, 6


@pytest.fixture(scope="module")
def world():
    """300 documents of 40 words; features speak at words of their own, at random, or once: (tokens, z).

    All but LEVEL, which always speaks as loudly, have activations of four octaves.
    """
    rng = np.random.default_rng(0)
    texts = rng.choice(WORDS, (300, 40))
    flat, z_NF = texts.reshape(-1), np.zeros((12_000, 7), np.float32)
    strength = np.exp2(rng.uniform(-3, 1, 12_000))
    for feature, words in PLANTED.items():
        z_NF[:, feature] = np.isin(flat, words) * strength
    z_NF[:, LEVEL] = z_NF[:, LEVEL] > 0
    z_NF[:, CHANCE] = (rng.random(12_000) < 0.01) * strength
    z_NF[5, RARE] = 1
    cache = build_cache(
        Lake("memory://interpret"),
        {"resid.0": np.zeros((12_000, 2), np.float32)},
        [[Doc(" ".join(text), key=f"file:{n}") for n, text in enumerate(texts)]],
    )
    return cache.tokens, z_NF


@pytest.fixture(scope="module")
def examples(world):
    tokens, z_NF = world
    observed = Observed(tokens, 7, 10, seed=0)
    for part in np.array_split(np.arange(12_000), 7):
        observed.add(part, Dense(torch.from_numpy(z_NF[part])))
    return gather(observed, np.arange(7), np.arange(12_000), lambda rows: Dense(torch.from_numpy(z_NF[rows])))


def test_examples_carry_the_activations_of_the_tokens_around_them(examples, world):
    tokens, z_NF = world
    strings = tokens.strings(slice(None))
    for feature in range(7):
        for one in examples.of[feature]:
            first, stop = one.row - one.at, one.row - one.at + len(one.excerpt.tokens)
            assert one.excerpt.activations == pytest.approx(z_NF[first:stop, feature])
            assert "".join(one.excerpt.tokens) == " ".join(strings[first:stop])
            assert one.left + one.token + one.right == "".join(one.excerpt.tokens)
            assert one.activation == one.excerpt.activations[one.at] == z_NF[one.row, feature]
            assert one.token == strings[one.row]
            assert one.document == f"file:{one.row // 40}"
            assert len(one.excerpt.tokens) == min(BEFORE, one.row % 40) + 1 + min(AFTER, 39 - one.row % 40)


def test_no_row_is_an_example_twice_and_bands_go_down_from_the_maximum(examples):
    for feature in (0, 1, 2, 3, CHANCE, LEVEL):
        rows = [one.row for one in examples.of[feature]]
        assert len(rows) == len(set(rows))
        bands = [one.band for one in examples.of[feature]]
        assert bands == [STRONGEST] * 10 + sorted(bands[10:])
        assert set(bands[10:]) == ({0} if feature == LEVEL else set(range(8)))
        assert 30 <= len(bands) <= 50 or feature == LEVEL
        strongest = [one.activation for one in examples.of[feature][:10]]
        assert strongest == sorted(strongest, reverse=True)


def test_evidence_keeps_documents_apart_and_silent_excerpts_silent(examples, world):
    tokens, _ = world
    document_of = {"".join(one.excerpt.tokens): one.document for of in examples.of.values() for one in of}
    for feature, words in PLANTED.items():
        evidence = examples.evidence[feature]
        shown = {document_of["".join(excerpt.tokens)] for excerpt in evidence.shown}
        scored = {document_of["".join(excerpt)] for excerpt in evidence.firing}
        assert shown
        assert scored
        assert not shown & scored
        assert all(any(token.strip() in words for token in excerpt) for excerpt in evidence.firing)
        assert not any(token.strip() in words for excerpt in evidence.silent for token in excerpt)
        assert len(evidence.silent) == 20
    texts = [" ".join(tokens.strings(slice(at, at + 40))) for at in range(0, 12_000, 40)]
    finding = finding_half(tokens, np.arange(0, 12_000, 40), 0)
    for excerpt in examples.evidence[0].silent:
        (document,) = (n for n, text in enumerate(texts) if "".join(excerpt) in text)
        assert not finding[document]


def test_planted_features_are_explained_and_the_explanations_of_others_are_worth_a_coin(examples):
    judged = interpret(TokenJudge(), examples.evidence, seed=0)
    by_feature = dict(zip(judged.features_M.tolist(), judged.accuracy_M, strict=True))
    assert RARE not in by_feature
    assert all(by_feature[feature] == 1 for feature in PLANTED)
    assert by_feature[CHANCE] < 0.75
    assert judged.null_M.mean() == pytest.approx(0.5, abs=0.12)
    assert "fo" in judged.explanations[2]
    assert "ku" in judged.explanations[2]


def test_the_built_in_judge_says_the_same_every_time(examples):
    first, again = (interpret(TokenJudge(), examples.evidence, seed=3) for _ in range(2))
    assert first.explanations == again.explanations
    np.testing.assert_array_equal(first.null_M, again.null_M)


def test_the_judge_tells_a_pair_of_tokens_from_its_last_token():
    shown = [
        Excerpt(("a", "b", "x", "b", "a", "b"), (0, 1, 0, 0, 0, 2)),
        Excerpt(("b", "x", "a", "b", "x"), (0, 0, 0, 1, 0)),
    ]
    judge = TokenJudge()
    explanation = judge.explain(shown)
    assert explanation == 'fires on the last token of: [["a", "b"]]'
    assert list(judge.detect(explanation, [("a", "b"), ("b", "a"), ("x", "b"), ("z", "a", "b")])) == [1, 0, 0, 1]


def test_a_judge_who_sees_nothing_in_common_says_so_and_detects_nothing():
    judge = TokenJudge()
    explanation = judge.explain([Excerpt(("a",), (1,)), Excerpt(("b",), (1,))])
    assert list(judge.detect(explanation, [("a",), ("b",)])) == [0, 0]


class Remote:
    """A judge of another kind: it knows one word, and keeps what it was handed."""

    def __init__(self):
        self.seen = []

    def explain(self, excerpts):
        assert all(max(excerpt.activations) > 0 for excerpt in excerpts)
        return "the word yes"

    def detect(self, explanation, excerpts):
        self.seen.append(list(excerpts))
        return [0.9 if "yes" in excerpt else 0.2 for excerpt in excerpts]


def test_any_object_with_the_two_methods_is_a_judge():
    firing, silent = (("yes", "a"), ("yes", "b"), ("yes", "c"), ("d",)), (("e",), ("f",), ("yes",), ("g",), ("h",))
    shown = (Excerpt(("yes",), (1.0,)),) * 4
    judge = Remote()
    judged = interpret(judge, {4: Evidence(shown, firing, silent), 9: Evidence(shown[:3], firing, silent)}, seed=0)
    assert judged.features_M.tolist() == [4]
    assert np.isnan(judged.null_M).all()
    assert judged.explanations == ("the word yes",)
    assert judged.accuracy_M[0] == pytest.approx((3 / 4 + 4 / 5) / 2)
    assert sorted(judge.seen[0]) == sorted([*firing, *silent])
    assert judge.seen[0] != [*firing, *silent]


def test_the_table_of_contexts_has_a_line_per_example(examples):
    table = contexts_table(examples, {3: "topic = sea", 1: ""}).to_pylist()
    assert len(table) == len(examples.of[3]) + len(examples.of[1])
    first, one = table[0], examples.of[3][0]
    assert (first["feature"], first["chosen"], first["band"], first["rank"]) == (3, "topic = sea", None, 0)
    assert first["window"][first["at"]].strip() == first["token"] == "mi"
    assert first["activations"] == pytest.approx(one.excerpt.activations)
    assert all(0 <= line["quantile"] <= 1 for line in table)


@pytest.mark.parametrize(("own", "token", "left"), [(" cat", "cat", "a "), ("", "é", "a"), ("é", "\ufffd", "a")])
def test_the_text_before_a_token_ends_where_the_token_begins(own, token, left):
    excerpt = Excerpt(tokens=("a", own), activations=(0.0, 1.0))
    one = Example(0, 0, 0, 1, 1.0, 0.5, "d", token, 1, excerpt)
    assert one.left == left
