"""Sites side by side: the rows of each, in the same order, however they are read."""

import numpy as np
import pytest
from conftest import Doc, build_cache

from storage import InputError
from storage.joined import Joined

RNG = np.random.default_rng(0)
WIDE, NARROW = (RNG.standard_normal((700, d)).astype(np.float32) for d in (96, 5))


@pytest.fixture
def caches(lake, monkeypatch):
    """Two segments; chunks of the wide site hold fewer rows than those of the narrow one."""
    monkeypatch.setattr("storage.layout.CHUNK_BYTES", 96 * 4 * 8)
    monkeypatch.setattr("storage.layout.SHARD_BYTES", 96 * 4 * 64)
    documents = [Doc(" ".join(["w"] * 10), key=str(n)) for n in range(70)]
    one = build_cache(lake, {"resid.0": WIDE, "mlp.0": NARROW}, [documents[:40], documents[40:]], unit=256)
    other = build_cache(
        lake, {"resid.1": NARROW}, [documents[:40], documents[40:]], unit=256, dtype="bfloat16", name="b.c"
    )
    return one, other


def test_rows_are_those_of_each_source_in_its_columns(caches):
    one, other = caches
    joined = Joined([one.site("resid.0"), one.site("mlp.0"), other.site("resid.1")])
    assert joined.shape == (700, 106)
    assert joined.columns == (slice(0, 96), slice(96, 101), slice(101, 106))
    rows = np.array([3, 699, 0, 350])
    np.testing.assert_array_equal(joined[rows][:, :101], np.hstack([WIDE, NARROW])[rows])
    np.testing.assert_array_equal(joined[395:405][:, :101], np.hstack([WIDE, NARROW])[395:405])
    np.testing.assert_array_equal(joined[:][:, 101:], other.site("resid.1")[:].astype(np.float32))


@pytest.mark.parametrize("keep", [None, np.arange(700) % 3 > 0])
def test_a_shuffle_gives_every_row_once_with_all_its_columns(caches, keep):
    one, _ = caches
    joined = Joined([one.site("resid.0"), one.site("mlp.0")])
    assert set(joined.edges) <= set(one.site("resid.0").edges)
    found = list(joined.shuffled(batch=64, seed=3, epochs=2, keep=keep, with_rows=True))
    rows = np.concatenate([rows for rows, _ in found])
    wanted = np.arange(700) if keep is None else np.flatnonzero(keep)
    assert sorted(rows) == sorted([*wanted, *wanted])
    assert not np.array_equal(rows[: len(wanted)], wanted)
    np.testing.assert_array_equal(np.concatenate([x for _, x in found]), np.hstack([WIDE, NARROW])[rows])


def test_a_shuffle_goes_on_at_any_batch(caches):
    joined = Joined([caches[0].site("resid.0"), caches[0].site("mlp.0")])
    order = joined.shuffled(batch=100, seed=1, epochs=2)
    batches = []
    for x in order:
        batches.append(x)
        if len(batches) == 9:
            break
    rest = list(joined.shuffled(batch=100, seed=1, epochs=2, position=order.position))
    whole = list(joined.shuffled(batch=100, seed=1, epochs=2))
    assert len(batches) + len(rest) == len(whole)
    for one, other in zip([*batches, *rest], whole, strict=True):
        np.testing.assert_array_equal(one, other)


def test_sources_of_other_lengths_are_refused(lake, caches):
    short = build_cache(lake, {"resid.9": NARROW[:20]}, [[Doc("a b c"), Doc("d e")]], name="short.words")
    with pytest.raises(InputError, match=r"resid\.0, resid\.9 have 700, 5 rows"):
        Joined([caches[0].site("resid.0"), short.site("resid.9")])
