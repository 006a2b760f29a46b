"""Splits are by document: disjoint, covering, and the same whatever else is in the cache."""

import numpy as np
import pytest

from jobs.core.splits import split_documents
from storage.errors import InputError


def names(n, prefix="corpus.jsonl"):
    return np.array([f"{prefix}:{i}" for i in range(n)], dtype=object)


@pytest.mark.parametrize("seed", range(5))
def test_every_document_is_on_exactly_one_side(seed):
    split = split_documents(names(300), seed=seed)
    assert (split.train.astype(int) + split.validation + split.test == 1).all()


@pytest.mark.parametrize("seed", range(5))
def test_no_document_has_rows_on_both_sides(seed):
    rng = np.random.default_rng(seed)
    documents_N = rng.integers(0, 200, size=5000)  # in any order, interleaved
    split = split_documents(names(200), seed=seed)
    rows = split.at(documents_N)
    sides = [set(documents_N[mask]) for mask in (rows.train, rows.validation, rows.test)]
    assert not sides[0] & sides[1]
    assert not sides[0] & sides[2]
    assert not sides[1] & sides[2]
    assert set.union(*sides) == set(documents_N)
    assert (rows.train.astype(int) + rows.validation + rows.test == 1).all()


def test_a_document_stays_where_it_is_when_others_come_go_or_move():
    ids = names(400)
    whole = split_documents(ids, seed=3)
    order = np.random.default_rng(0).permutation(400)[:250]
    part = split_documents(np.concatenate([names(50, "new"), ids[order]]), seed=3)
    assert (part.test[50:] == whole.test[order]).all()
    assert (part.validation[50:] == whole.validation[order]).all()


def test_equal_ids_stay_together():
    groups = np.array(["ann", "bob", "cy", "dee", "eve", "flo"] * 50, dtype=object)
    split = split_documents(groups, validation=0.3, test=0.3, seed=1)
    for name in set(groups):
        assert split.test[groups == name].all() or not split.test[groups == name].any()


def test_shares_are_met_and_seeds_differ():
    split = split_documents(names(20_000), validation=0.1, test=0.3, seed=0)
    assert split.validation.mean() == pytest.approx(0.1, abs=0.01)
    assert split.test.mean() == pytest.approx(0.3, abs=0.01)
    other = split_documents(names(20_000), validation=0.1, test=0.3, seed=1)
    assert (split.test & other.test).mean() == pytest.approx(0.09, abs=0.01)  # independent of each other


def test_the_split_is_this_one_for_ever():
    """Published results name a seed; the documents it stands for must not change with versions or machines."""
    split = split_documents(names(12), validation=0.25, test=0.25, seed=0)
    parts = np.select([split.train, split.validation], ["r", "v"], default="e")
    assert "".join(parts) == "rvvvrrreerre"


def test_no_validation_is_allowed_and_an_empty_part_is_refused():
    assert not split_documents(names(50), validation=0.0).validation.any()
    with pytest.raises(InputError, match=r"of the 1 found none fell to .* harvest more documents"):
        split_documents(names(1))
