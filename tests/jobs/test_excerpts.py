"""Excerpts are whole sequences, and say of every row which it is, what follows it, and whether it was asked for."""

import numpy as np

from jobs.core.excerpts import excerpts
from storage import Site
from tests.conftest import Doc, build_cache

SITE = Site("resid", 0)


def test_every_row_is_met_once_with_what_follows_it(lake):
    words = [text.split() for text in ("b a c", "d", "a b c d", "a a b c d", "c b")]
    documents = [Doc(" ".join(one)) for one in words]
    cache = build_cache(lake, {"resid.0": np.zeros((15, 4))}, [[*documents[:2], Doc(""), documents[2]], documents[3:]])
    asked = np.array([0, 2, 4, 9, 14])
    found = list(excerpts(cache, SITE, np.arange(15), 15, batch=10))
    assert np.concatenate([one.rows_R for one in found]).tolist() == list(range(15))
    some = [list(ids) for one in found for ids in one.sequences]
    assert [len(ids) for ids in some] == [3, 1, 4, 5, 2]
    follows = [after for ids in some for after in (*ids[1:], -1)]
    assert np.concatenate([one.after_R for one in found]).tolist() == follows
    for one in excerpts(cache, SITE, asked, 15):
        assert one.rows_R[one.asked_R].tolist() == [row for row in asked if row in one.rows_R]
        assert np.concatenate(one.sequences)[one.kept_R].tolist() == cache.tokens.ids(one.rows_R).tolist()
    assert sum(one.asked_R.sum() for one in excerpts(cache, SITE, asked, 15)) == 5


def test_a_sequence_without_a_row_asked_for_is_left_out(lake):
    cache = build_cache(lake, {"resid.0": np.zeros((8, 4))}, [[Doc("a b"), Doc("c d"), Doc("a c b d")]])
    (one,) = excerpts(cache, SITE, np.array([1, 6]), 8)
    assert one.rows_R.tolist() == [0, 1, 4, 5, 6, 7]


def test_of_many_rows_some_are_met_evenly_spaced(lake):
    cache = build_cache(lake, {"resid.0": np.zeros((400, 4))}, [[Doc("a b c d")] * 50, [Doc("d c b a")] * 50])
    rows_R = np.concatenate([one.rows_R for one in excerpts(cache, SITE, np.arange(400), tokens=40)])
    assert len(rows_R) == 40
    assert rows_R.min() == 0
    assert rows_R.max() == 399
    assert np.diff(rows_R).max() < 50


def test_a_forward_has_so_many_tokens_with_padding_unless_one_sequence_has_more(lake):
    cache = build_cache(lake, {"resid.0": np.zeros((18, 4))}, [[Doc("a b c"), Doc("a"), Doc("a " * 9), Doc("b " * 5)]])
    found = [[len(ids) for ids in one.sequences] for one in excerpts(cache, SITE, np.arange(18), 18, batch=6)]
    assert found == [[3, 1], [9], [5]]
