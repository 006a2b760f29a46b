"""Planted features are found by the tokens that they fire on, rates and chance are not; and what stands beside them."""

import itertools

import numpy as np
import pytest
import torch
from conftest import Doc, build_cache

from jobs.sae.codes import Dense
from jobs.sae.contexts import Entries
from jobs.sae.detectors import Firings, detect
from jobs.sae.logit_effects import logit_effects, require_unembedding, unembedding
from jobs.sae.neighbours import by_angle, by_firing, greatest
from jobs.sae.portraits import grams, ngram
from storage import InputError, Lake

WORDS = [f"{a}{b}" for a in "bdfgklmprs" for b in "aeiou"]
TOKEN, SET, PAIR, TRIPLE, CHANCE, RARE, DEAD, TWIN, GRADED = range(9)


@pytest.fixture(scope="module")
def world():
    """400 documents of 30 words each, and which of 9 features fires where: (tokens, fires [N, F])."""
    rng = np.random.default_rng(0)
    share = np.arange(12, 0, -1) / 78
    texts = rng.choice(WORDS[:12], (400, 30), p=share)
    flat = texts.reshape(-1)
    before = np.where(np.arange(len(flat)) % 30 > 0, np.roll(flat, 1), "")
    earlier = np.where(np.arange(len(flat)) % 30 > 1, np.roll(flat, 2), "")
    fires = np.zeros((len(flat), 9), bool)
    fires[:, TOKEN] = flat == "ba"
    fires[:, SET] = np.isin(flat, ["be", "bi", "da"])
    fires[:, PAIR] = (flat == "ba") & (before == "de")
    fires[:, TRIPLE] = (flat == "ba") & (before == "de") & (earlier != "be") | (flat == "do") & (before == "bi")
    fires[:, CHANCE] = rng.random(len(flat)) < 0.1
    fires[[3, 70, 500], RARE] = True
    fires[:, TWIN] = fires[:, CHANCE] & (rng.random(len(flat)) < 0.9)
    fires[:, GRADED] = rng.random(len(flat)) < 0.05 / share[[WORDS.index(word) for word in flat]] - 0.25
    documents = [Doc(" ".join(text)) for text in texts]
    cache = build_cache(Lake("memory://detectors"), {"resid.0": np.zeros((len(flat), 2), np.float32)}, [documents])
    return cache.tokens, fires


@pytest.fixture(scope="module")
def firings(world):
    tokens, fires = world
    firings = Firings(tokens, 9, seed=0)
    for part in np.array_split(np.random.default_rng(1).permutation(len(fires)), 5):
        firings.take(part, Entries.of(part, Dense(torch.from_numpy(fires[part].astype(np.float32)))))
    return firings


@pytest.fixture(scope="module")
def found(firings):
    return detect(firings)


def always(fires_N):
    """F1 of saying that a feature fires on every row: about the best that can be said where tokens tell nothing."""
    return 2 * fires_N.mean() / (1 + fires_N.mean())


def test_a_planted_token_is_found_and_chance_is_not(found, world):
    tokens, fires = world
    assert found.token_set.f1_F[TOKEN] == found.ngram_f1_F[TOKEN] == 1
    assert grams(found.token_set, TOKEN, tokens) == [ngram(found, TOKEN, tokens)] == ["ba"]
    assert found.token_set.null_F[TOKEN] == pytest.approx(always(fires[:, TOKEN]), abs=0.03)
    assert found.token_set.f1_F[CHANCE] == pytest.approx(found.token_set.null_F[CHANCE], abs=0.03)


def test_a_planted_set_is_found_where_no_one_token_will_do(found, world):
    tokens, fires = world
    assert sorted(grams(found.token_set, SET, tokens)) == ["be", "bi", "da"]
    assert found.token_set.f1_F[SET] == 1
    assert found.ngram_f1_F[SET] == pytest.approx(2 * 11 / (11 + 28), abs=0.05)
    assert found.token_set.null_F[SET] == pytest.approx(always(fires[:, SET]), abs=0.05)


def test_a_planted_pair_is_found_by_two_tokens_and_not_by_one(found, world):
    tokens, _ = world
    assert found.best_F[PAIR] == 1
    assert ngram(found, PAIR, tokens) == "de ba"
    assert found.ngram_f1_F[PAIR] == 1
    assert found.token_set.f1_F[PAIR] < 0.3
    assert found.ngram_null_F[PAIR] < 0.1


def test_features_that_fire_too_rarely_have_no_detector(found):
    assert np.isnan(found.token_set.f1_F[[RARE, DEAD]]).all()
    assert np.isnan(found.ngram_f1_F[[RARE, DEAD]]).all()


def test_scores_are_f1_on_the_half_that_did_not_choose(found, firings, world):
    tokens, fires = world
    held = ~firings.finding_N
    assert 0.35 < held.mean() < 0.65
    assert len({*tokens.documents(firings.rows_N[held])} & {*tokens.documents(firings.rows_N[~held])}) == 0
    words = np.array(tokens.strings(slice(None)))
    for feature in (SET, PAIR, TRIPLE, CHANCE):
        alarm = np.isin(words, grams(found.token_set, feature, tokens))[held]
        fire = fires[held, feature]
        wanted = 2 * (alarm & fire).sum() / (alarm.sum() + fire.sum())
        if found.token_set.sizes_F[feature] <= 10:
            assert found.token_set.f1_F[feature] == pytest.approx(wanted)


def test_the_set_is_the_best_of_all_sets(found, firings, world):
    tokens, fires = world
    words = np.array(tokens.strings(slice(None)))[firings.finding_N]
    for feature in (SET, TRIPLE, CHANCE, GRADED):
        fire = fires[firings.finding_N, feature]
        hits = {word: (fire & (words == word)).sum() for word in WORDS[:12]}
        count = {word: (words == word).sum() for word in WORDS[:12]}
        best = max(
            2 * sum(hits[w] for w in some) / (sum(count[w] for w in some) + fire.sum())
            for n in range(1, 13)
            for some in itertools.combinations(WORDS[:12], n)
        )
        assert found.token_set.chosen_f1_F[feature] == pytest.approx(best)


def test_the_same_firings_in_other_batches_give_the_same_detectors(found, world):
    tokens, fires = world
    again = Firings(tokens, 9, seed=0)
    again.take(np.arange(len(fires)), Entries.of(np.arange(len(fires)), Dense(torch.from_numpy(fires * 1.0))))
    other = detect(again)
    np.testing.assert_array_equal(found.token_set.f1_F, other.token_set.f1_F)
    np.testing.assert_array_equal(found.token_set.null_F, other.token_set.null_F)
    np.testing.assert_array_equal(found.ngram_f1_F, other.ngram_f1_F)


def test_nothing_that_fires_is_no_error(world):
    tokens, _ = world
    firings = Firings(tokens, 3, seed=0)
    firings.take(np.arange(60), Entries.of(np.arange(60), Dense(torch.zeros(60, 3))))
    assert np.isnan(detect(firings).token_set.f1_F).all()
    assert by_firing(firings, np.arange(3), 2).features_MK.tolist() == [[-1, -1]] * 3


# neighbours


def test_features_that_fire_together_are_neighbours_by_the_correlation_of_firing(firings, world):
    _, fires = world
    near = by_firing(firings, np.array([CHANCE, TOKEN]), 3)
    wanted = np.corrcoef(fires[:, CHANCE], fires[:, TWIN])[0, 1]
    assert near.features_MK[0, 0] == TWIN
    assert near.closeness_MK[0, 0] == pytest.approx(wanted)
    assert abs(near.closeness_MK[0, 1]) < 0.05
    assert near.features_MK[1, 0] in (PAIR, TRIPLE)
    assert DEAD not in near.features_MK


def test_atoms_are_neighbours_by_their_angle_and_zero_atoms_by_none():
    atoms = torch.tensor([[1.0, 0, 0], [3, 0.1, 0], [0, 1, 0], [0, 0, 0], [-1, 0, 0]])
    near = by_angle(atoms, np.array([0, 3]), 4)
    assert near.features_MK.tolist() == [[1, 2, 4, -1], [-1] * 4]
    np.testing.assert_allclose(near.closeness_MK[0, :3], [3 / np.hypot(3, 0.1), 0, -1], atol=1e-6)


def test_of_equals_the_lower_place_is_first():
    places, values = greatest(torch.tensor([[1.0, 3, 2, 3], [0, 0, 0, 5]]), 2)
    assert places[0].tolist() == [1, 3]
    assert places[1, 0] == 3
    assert values.tolist() == [[3, 3], [5, 0]]


# logit effects


def test_a_feature_promotes_the_tokens_that_its_atom_points_to():
    table = torch.randn(500, 16, generator=torch.Generator().manual_seed(5)) + 2
    atoms = torch.stack([table[7] - table.mean(0), -3 * (table[9] - table.mean(0))])
    found = logit_effects(atoms, table, 5, seed=0)
    effects = atoms @ table.T
    effects = effects - effects.mean(1, keepdim=True)
    assert found.promoted_MR[0, 0] == 7
    assert found.suppressed_MR[1, 0] == 9
    for m in range(2):
        order = effects[m].argsort(descending=True)
        assert found.promoted_MR[m].tolist() == order[:5].tolist()
        assert found.suppressed_MR[m].tolist() == order.flip(0)[:5].tolist()
        np.testing.assert_allclose(found.promotion_MR[m], effects[m][order[:5]], rtol=1e-4)
        np.testing.assert_allclose(found.suppression_MR[m], effects[m][order.flip(0)[:5]], rtol=1e-4)
    assert found.peak_M[0] > found.null_peak == pytest.approx(3.0, abs=0.3)


def test_the_table_comes_from_the_whole_vocabulary_of_the_same_model_in_the_right_width(make_cache):
    rows = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
    documents = [Doc(word) for word in ("a", "b", "c", "d")]
    cache, other = (make_cache(sites={"unembed": rows}, documents=documents) for _ in range(2))
    twice = make_cache(sites={"unembed": rows}, documents=[Doc(word) for word in ("a", "b", "b", "a")])
    found = unembedding(cache)
    require_unembedding(cache, cache, 6)
    np.testing.assert_array_equal(found.table_VD, rows)
    assert list(found.strings) == ["a", "b", "c", "d"]
    with pytest.raises(InputError, match="whose rows have 6 numbers; the atoms have 8"):
        require_unembedding(cache, cache, 8)
    with pytest.raises(InputError, match="is of another model"):
        require_unembedding(other, cache, 6)
    with pytest.raises(InputError, match="does not hold every token of a vocabulary once"):
        require_unembedding(twice, twice, 6)
