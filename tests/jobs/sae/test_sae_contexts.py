"""Leaders and samples are those of a full sort, whatever the order and the size of batches; windows keep to a text."""

import conftest
import numpy as np
import pytest
import torch
from conftest import Doc

from jobs.sae.codes import Dense
from jobs.sae.contexts import N_BANDS, N_BINS, Bands, Entries, Leaders, bins, edges, hashed
from jobs.sae.detectors import Firings
from jobs.sae.observed import Observed
from jobs.sae.windows import pieces, shown_tokens, sound, windows
from storage import Lake

WIDTH, ROWS = 9, 3000


@pytest.fixture(scope="module")
def z():
    """Activations over six octaves; feature 3 is dead, 4 fires thrice, 5 in two values only, 6 below zero, too."""
    rng = np.random.default_rng(0)
    z_NF = np.exp2(rng.uniform(-3, 3, (ROWS, WIDTH))).astype(np.float32) * (rng.random((ROWS, WIDTH)) < 0.3)
    z_NF[:, 3] = 0
    z_NF[:, 4] = 0
    z_NF[[7, 90, 2000], 4] = 1.5, 0.1, 70
    z_NF[:, 5] = rng.integers(0, 3, ROWS)
    z_NF[:, 6] *= rng.choice([-1, 1], ROWS)
    return z_NF


def fed(taker, z_NF, rng, size):
    """`taker` after all rows, in random order and batches of `size`."""
    for part in np.split(rng.permutation(ROWS), range(size, ROWS, size)):
        taker.take(Entries.of(part + 100, Dense(torch.from_numpy(z_NF[part]))))
    return taker


@pytest.mark.parametrize("size", [7, 500, 3000])
def test_leaders_are_the_first_of_a_full_sort(z, size, monkeypatch):
    monkeypatch.setattr("jobs.sae.contexts._WAITING", 50)
    leaders = fed(Leaders(WIDTH, 6), z, np.random.default_rng(size), size)
    for feature in range(WIDTH):
        wanted = sorted((-z[row, feature], row + 100) for row in range(ROWS) if z[row, feature] > 0)[:6]
        rows, values = leaders.of(feature)
        assert list(zip(-values, rows, strict=True)) == wanted
    assert leaders.full()[0].tolist() == [0, 1, 2, 5, 6, 7, 8]


def band_of(value, top):
    """Half octaves of `value` below `top`, both cut at whole half octaves."""
    return min(int(np.floor(2 * np.log2(top)) - np.floor(2 * np.log2(value))), N_BANDS - 1)


@pytest.mark.parametrize("size", [7, 500, 3000])
def test_samples_are_the_lowest_hashes_of_each_band_of_all_rows(z, size, monkeypatch):
    monkeypatch.setattr("jobs.sae.contexts._WAITING", 50)
    bands = fed(Bands(WIDTH, 4, seed=3), z, np.random.default_rng(size), size)
    for feature in range(WIDTH):
        positive = [row for row in range(ROWS) if z[row, feature] > 0]
        top = max((z[row, feature] for row in positive), default=1)
        by_band = {}
        for row in positive:
            draw = hashed(hashed(np.array([row + 100]), 3) ^ np.uint64(feature), 3)[0]
            by_band.setdefault(band_of(z[row, feature], top), []).append((draw, row + 100))
        wanted = [(band, row) for band in sorted(by_band) for _, row in sorted(by_band[band])[:4]]
        rows, values, found = bands.of(feature)
        assert list(zip(found, rows, strict=True)) == wanted
        assert values.tolist() == z[rows - 100, feature].tolist()
    np.testing.assert_array_equal(bands.counts_FH.sum(1), (z > 0).sum(0))


def test_what_is_kept_is_the_same_for_any_order_and_size_of_batches(z, monkeypatch):
    monkeypatch.setattr("jobs.sae.contexts._WAITING", 100)
    found = [fed(Bands(WIDTH, 3, seed=0), z, np.random.default_rng(size), size) for size in (11, 640)]
    for name in ("features_C", "rows_C", "values_C"):
        np.testing.assert_array_equal(*(getattr(bands.entries, name) for bands in found))
    np.testing.assert_array_equal(found[0].counts_FH, found[1].counts_FH)


def test_a_maximum_that_rises_to_the_last_row_changes_nothing(z, monkeypatch):
    monkeypatch.setattr("jobs.sae.contexts._WAITING", 50)
    rising = Bands(WIDTH, 3, seed=0)
    for part in np.array_split(z.max(1).argsort(), 100):
        rising.take(Entries.of(part + 100, Dense(torch.from_numpy(z[part]))))
    wanted = fed(Bands(WIDTH, 3, seed=0), z, np.random.default_rng(0), ROWS)
    np.testing.assert_array_equal(rising.entries.features_C, wanted.entries.features_C)
    np.testing.assert_array_equal(rising.entries.rows_C, wanted.entries.rows_C)


def test_another_seed_draws_other_rows_and_every_row_as_often(z):
    drawn = [fed(Bands(WIDTH, 4, seed), z, np.random.default_rng(0), 3000).of(5)[0] for seed in range(200)]
    assert len({tuple(rows) for rows in drawn}) == 200
    halves = np.concatenate(drawn) < 100 + ROWS / 2
    assert halves.mean() == pytest.approx(0.5, abs=0.05)


def test_bins_are_half_octaves_and_the_ends_take_what_is_beyond():
    inner = edges()[1:-1]
    assert bins(inner * 1.0001).tolist() == list(range(1, N_BINS))
    assert bins(inner * 0.9999).tolist() == list(range(N_BINS - 1))
    assert bins(np.array([1e-30, 1e30])).tolist() == [0, N_BINS - 1]
    assert bins(np.float32([1, 2])).tolist() == [40, 42]


def test_a_quantile_is_the_share_of_weaker_activations_to_half_an_octave(z):
    bands = fed(Bands(WIDTH, 3, 0), z, np.random.default_rng(0), 500)
    positive = np.sort(z[z[:, 0] > 0, 0])
    at = np.array([0, len(positive) // 2, len(positive) - 1])
    found = bands.quantile(Entries(np.zeros(3, np.int64), at, positive[at]))
    np.testing.assert_allclose(found, (at + 0.5) / len(positive), atol=0.06)


def test_what_a_feature_keeps_is_bounded_by_what_the_docstring_says():
    rng = np.random.default_rng(0)
    z_NF = torch.from_numpy(np.exp2(rng.uniform(-9, 9, (4000, 50))).astype(np.float32))
    bands, leaders = Bands(50, 12, 0), Leaders(50, 20)
    for part in range(5):
        found = Entries.of(np.arange(4000) + 4000 * part, Dense(z_NF))
        bands.take(found)
        leaders.take(found)
    kept = [leaders.entries, bands.entries]
    size = sum(column.nbytes for one in kept for column in (one.features_C, one.rows_C, one.values_C))
    size += bands.counts_FH.nbytes + bands._worst_FG.nbytes + bands._top_F.nbytes + leaders._floor_F.nbytes
    assert size == 50 * (20 * 20 + 200 * 12 + 412)


# windows


@pytest.fixture
def tokens(make_cache):
    documents = [Doc("a bb  ccc d"), Doc("e"), Doc("ff g")]
    return make_cache(sites={"resid.0": np.zeros((7, 2), np.float32)}, documents=documents).tokens


def test_a_window_ends_where_its_document_does(tokens):
    found = windows(tokens, np.array([0, 3, 4, 6]), 2, 1)
    assert found.tolist() == [[-1, -1, 0, 1], [1, 2, 3, -1], [-1, -1, 4, -1], [-1, 5, 6, -1]]


def test_the_pieces_of_a_window_are_its_text(tokens):
    assert pieces(tokens, np.array([1, 2, 3])) == ["bb", " ccc", " d"]
    assert shown_tokens(tokens, np.array([2, 4])) == ["ccc", "e"]


def tokens_of(monkeypatch, *texts, **fields):
    """The token index of documents whose spans have these fields."""
    spans = [span._replace(**fields) for span in conftest.spans_of([Doc(text) for text in texts])]
    monkeypatch.setattr(conftest, "spans_of", lambda docs: spans)
    rows = np.zeros((sum(span.n_rows for span in spans), 2), np.float32)
    return conftest.build_cache(Lake(f"memory://{texts[0]}"), {"resid.0": rows}, [[Doc(text) for text in texts]]).tokens


def test_a_window_ends_between_documents_of_one_sequence(monkeypatch):
    tokens = tokens_of(monkeypatch, "p q", "r s t", sequence=0)
    assert tokens.positions(np.array([2])) == [2]
    assert windows(tokens, np.array([1, 2]), 1, 1).tolist() == [[0, 1, -1], [-1, 2, 3]]


def test_a_window_ends_where_a_token_has_no_row(monkeypatch):
    tokens = tokens_of(monkeypatch, "k l m n", rows=np.int32([0, 2, 3]))
    assert windows(tokens, np.array([1]), 1, 1).tolist() == [[-1, 1, 2]]


def test_tokens_without_text_of_their_own_are_shown_by_their_ids(monkeypatch):
    begin, end = np.int32([0, 0, 2, 2, 6]), np.int32([0, 1, 4, 4, 6])  # special, "a", two bytes of "bb", special
    tokens = tokens_of(monkeypatch, "a bb c", input_ids=np.int32([50, 1, 2, 3, 51]), begin=begin, end=end)
    assert pieces(tokens, np.arange(5)) == ["[50]", "a", " bb", "[3]", "[51]"]
    assert pieces(tokens, np.array([4])) == ["[51]"]


def test_rows_of_no_text_are_shown_by_their_ids(monkeypatch):
    tokens = tokens_of(monkeypatch, "c a b", begin=None, end=None, text=None)
    assert pieces(tokens, np.arange(3)) == shown_tokens(tokens, np.arange(3)) == ["[2]", "[0]", "[1]"]


def test_a_sounding_tells_each_code_of_the_features_asked_for(z):
    asked = []

    def encode(rows):
        asked.append(len(rows))
        return Dense(torch.from_numpy(z[rows]))

    rows = np.array([[5, 6, -1], [2999, 5, 0]])
    sounding = sound(rows, np.array([8, 0]), encode)
    np.testing.assert_array_equal(sounding.at(rows, np.array(8)), np.where(rows < 0, 0, z[rows, 8]))
    np.testing.assert_array_equal(sounding.at(rows, np.array([[0], [8]])), np.where(rows < 0, 0, z[rows, [[0], [8]]]))
    assert asked == [4]


def test_firings_over_the_limit_leave_the_same_whole_documents_in_any_order(make_cache, z):
    documents = [Doc("w " * 30) for _ in range(100)]
    tokens = make_cache(sites={"resid.0": np.zeros((ROWS, 2), np.float32)}, documents=documents).tokens
    kept = []
    for size in (13, 1000):
        firings = Firings(tokens, WIDTH, seed=0, most=4000)
        for part in np.split(np.random.default_rng(size).permutation(ROWS), range(size, ROWS, size)):
            firings.take(part, Entries.of(part, Dense(torch.from_numpy(z[part]))))
        at, features = firings.pairs
        assert 1000 < len(at) + len(firings.rows_N) <= 4000
        assert set(np.bincount(tokens.documents(firings.rows_N))) == {0, 30}
        kept.append(sorted(zip(firings.rows_N[at].tolist(), features.tolist(), strict=True)))
    assert kept[0] == kept[1]
    rows = set(firings.rows_N.tolist())
    assert kept[0] == [(n, f) for n, f in zip(*np.nonzero(z > 0), strict=True) if n in rows]


def test_one_pass_feeds_all_of_it(make_cache, z):
    tokens = make_cache(sites={"resid.0": np.zeros((ROWS, 2), np.float32)}, documents=[Doc("w " * ROWS)]).tokens
    observed = Observed(tokens, WIDTH, 5, seed=0)
    for part in np.array_split(np.arange(ROWS), 4):
        observed.add(part, Dense(torch.from_numpy(z[part])))
    assert observed.leaders.of(4)[0].tolist() == [2000, 7, 90]
    assert observed.bands.counts_FH.sum() == len(observed.firings.pairs[0]) == (z > 0).sum()
