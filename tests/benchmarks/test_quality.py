"""The shuffle's quality is what docs/benchmarks.md says: as good as its window, over the whole corpus."""

import pytest

from benchmarks import quality


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """A corpus of sixteen windows."""
    monkeypatch.setattr(quality, "_ROWS", 2**21)


@pytest.mark.parametrize("length", [64, 256, 1024])
def test_documents_within_a_chunk_meet_as_often_as_their_chunk_is_of_its_window(length):
    of_a_window = length / quality.WINDOW_ROWS
    assert quality.share(quality.full(), length) == pytest.approx(length / 2**21, rel=0.1)
    assert quality.share(quality.garner(), length) == pytest.approx(of_a_window, rel=0.1)


def test_what_is_longer_than_a_chunk_is_spread_over_the_corpus_as_no_consecutive_window_spreads_it():
    file = quality.WINDOW_ROWS
    assert quality.share(quality.buffered(), file) == pytest.approx(1)
    assert quality.share(quality.garner(), file) < 1.3 * quality.share(quality.full(), file)
