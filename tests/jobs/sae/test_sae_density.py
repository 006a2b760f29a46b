"""Firing densities: every live feature is in one bin, and the ends are counted."""

import numpy as np
import pytest

from jobs.sae.density import density, metrics, notes


def test_every_live_feature_is_counted_once_however_rare_or_dense():
    n_rows = 50_000
    fired_F = np.array([0, 0, 1, 4, 5, 500, 5000, 5001, n_rows])
    found = density(fired_F / n_rows, n_rows)
    assert sum(found.counts) == 7
    assert (found.dead, found.rare, found.dense, found.width) == (2, 2, 2, 9)
    assert (found.edges[0], found.edges[-1]) == (-5, 0)
    assert len(found.edges) == len(found.counts) + 1
    assert {metric.name: metric.value for metric in metrics(found)} == pytest.approx({"dense": 2 / 9, "rare": 2 / 9})
    assert notes(found) == ()


def test_bins_are_of_the_logarithm():
    found = density(np.array([0.0011, 0.011, 0.11, 0.9]), 1000)
    assert [found.counts[at] for at in (0, 4, 8, 11)] == [1, 1, 1, 1]


@pytest.mark.parametrize("n_rows", [3, 10, 1000, 12_345])
def test_the_rarest_that_rows_can_show_is_in_the_lowest_decade(n_rows):
    found = density(np.array([1 / n_rows]), n_rows)
    assert sum(found.counts[:4]) == 1


def test_too_few_rows_to_see_rare_features_are_named():
    assert "500 rows" in notes(density(np.array([0.5]), 500))[0]
