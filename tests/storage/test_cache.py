"""A sealed cache gives back exactly what was written, on disk and in memory, whole, sliced, gathered and shuffled."""

import pickle

import ml_dtypes
import numpy as np
import pytest
from conftest import Doc, build_cache

from storage import InputError, Lake, Position, RunError, Site


def documents(n, words=7):
    return [Doc(" ".join(f"w{i % 5}{j}" for j in range(words)), {"even": i % 2 == 0}) for i in range(n)]


@pytest.fixture(params=["disk", "memory"])
def any_lake(request, tmp_path, lake):
    return Lake(str(tmp_path / "lake")) if request.param == "disk" else lake


@pytest.fixture(params=["bfloat16", "float16", "float32"])
def rows(request):
    x = np.random.default_rng(0).normal(size=(700, 24))
    return request.param, x.astype(getattr(ml_dtypes, request.param, None) or request.param)


def test_every_way_of_reading_gives_the_rows_that_were_written(any_lake, rows):
    dtype, x = rows
    cache = build_cache(any_lake, {"resid.1": x}, [documents(60), documents(40)], dtype=dtype, unit=64)
    acts = cache.site("resid.1")
    assert acts.shape == x.shape
    assert acts.dtype == x.dtype
    np.testing.assert_array_equal(acts[:], x)
    np.testing.assert_array_equal(acts[130:477], x[130:477])
    some = np.random.default_rng(1).permutation(700)[:333]
    np.testing.assert_array_equal(acts[some], x[some])
    np.testing.assert_array_equal(acts[5], x[5])
    assert len(acts[3:3]) == 0


def test_shuffled_yields_every_kept_row_once_with_its_number(any_lake):
    x = np.arange(700 * 3, dtype=np.float32).reshape(700, 3)
    acts = build_cache(any_lake, {"embed": x}, [documents(60), documents(40)], unit=64).site("embed")
    keep = np.arange(700) % 3 != 0
    seen = []
    for rows_B, x_BD in acts.shuffled(batch=64, seed=3, keep=keep, with_rows=True):
        np.testing.assert_array_equal(x_BD, x[rows_B])
        seen.append(rows_B)
    assert all(len(one) == 64 for one in seen[:-1])
    np.testing.assert_array_equal(np.sort(np.concatenate(seen)), np.flatnonzero(keep))


def test_the_same_seed_gives_the_same_order_and_another_seed_another(make_cache):
    acts = make_cache({"embed": np.arange(700.0)[:, None]}, documents(100)).site("embed")
    first, again, other = (np.concatenate(list(acts.shuffled(batch=50, seed=s))) for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.9
    assert abs(np.corrcoef(first[:, 0], np.arange(700))[0, 1]) < 0.2


def test_ranks_partition_the_rows(any_lake, monkeypatch):
    monkeypatch.setattr("storage.shuffle.WINDOW_ROWS", 100)
    monkeypatch.setattr("storage.layout.CHUNK_BYTES", 16 * 4)
    acts = build_cache(any_lake, {"embed": np.arange(700.0)[:, None]}, [documents(100)], unit=64).site("embed")
    shares = [np.concatenate(list(acts.shuffled(batch=32, rank=r, world_size=3))) for r in range(3)]
    assert all(len(share) > 150 for share in shares)
    np.testing.assert_array_equal(np.sort(np.concatenate(shares)[:, 0]), np.arange(700))


@pytest.mark.parametrize("stop", [0, 1, 3, 7, 14, 15, 20])
def test_a_reader_resumed_from_its_position_continues_where_it_stopped(any_lake, monkeypatch, stop):
    monkeypatch.setattr("storage.shuffle.WINDOW_ROWS", 100)
    monkeypatch.setattr("storage.layout.CHUNK_BYTES", 16 * 4)
    acts = build_cache(any_lake, {"embed": np.arange(700.0)[:, None]}, [documents(100)], unit=64).site("embed")
    arguments = {"batch": 48, "seed": 5, "epochs": 2, "keep": np.arange(700) % 7 != 2}
    whole = list(acts.shuffled(**arguments))
    reader = acts.shuffled(**arguments)
    stream = iter(reader)
    for _ in range(stop):
        next(stream)
    rest = list(acts.shuffled(**arguments, position=reader.position))
    assert len(whole) == stop + len(rest)
    for ours, theirs in zip(whole[stop:], rest, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_batch_holds_few_rows_of_one_document(make_cache):
    x = np.repeat(np.arange(400.0), 50)[:, None]
    cache = make_cache({"embed": x}, documents(400, words=50))
    pairs = [np.mean(b == b.T) - 1 / len(b) for b in cache.site("embed").shuffled(batch=500)]
    assert np.mean(pairs) < 1.5 / 400


def test_tokens_lead_from_a_row_to_its_document_position_and_text(any_lake):
    docs = [Doc("a bb ccc", {"n": 1}), Doc("", {"n": 2}), Doc("d", {"n": 3})]
    more = [Doc("ee f", {"n": 4})]
    cache = build_cache(any_lake, {"embed": np.zeros((6, 2))}, [docs, more])
    tokens = cache.tokens
    assert (tokens.n_rows, tokens.n_documents, tokens.n_sequences) == (6, 4, 4)
    assert tokens.strings(slice(None)) == ["a", "bb", "ccc", "d", "ee", "f"]
    assert tokens.documents(slice(None)).tolist() == [0, 0, 0, 2, 3, 3]
    assert tokens.positions(np.array([5, 0, 2])).tolist() == [1, 0, 2]
    assert tokens.label("n").tolist() == [1, 2, 3, 4]
    assert tokens.document_ids.tolist() == ["doc:0", "doc:1", "doc:2", "doc:0"]
    assert tokens.document_rows(3).tolist() == [4, 5]
    assert tokens.document_rows(1).tolist() == []
    assert tokens.context(1) == ("a ", "bb", " ccc")
    assert tokens.table(["start", "length"]).to_pydict() == {"start": [0, 3, 3, 4], "length": [3, 0, 1, 2]}
    with pytest.raises(InputError, match="no label 'topic'; the labels are n"):
        tokens.label("topic")


def test_a_label_with_a_gap_keeps_its_kind(make_cache):
    docs = [Doc("a", {"n": 1, "s": "x"}), Doc("b", {"n": None, "s": None}), Doc("c", {"n": 3, "s": "y"})]
    tokens = make_cache({"embed": np.zeros((3, 2))}, docs).tokens
    assert tokens.label("n").tolist() == [1, None, 3]
    assert tokens.label("s").tolist() == ["x", None, "y"]


@pytest.mark.parametrize("rows", [slice(2, 5), np.array([4, 1])])
def test_rows_are_writable_wherever_they_come_from(any_lake, rows):
    acts = build_cache(any_lake, {"embed": np.arange(12.0)[:, None]}, [[Doc("a b c d e f g h i j k l")]]).site("embed")
    acts[rows][:] = 0
    assert acts[rows].flags.writeable


def test_moments_are_those_of_the_stored_rows(any_lake, rows):
    dtype, x = rows
    acts = build_cache(any_lake, {"embed": x}, [documents(60), documents(40)], dtype=dtype, unit=64).site("embed")
    exact = x.astype(np.float64)
    np.testing.assert_allclose(acts.moments.mean, exact.mean(0), atol=1e-7 * exact.std())
    np.testing.assert_allclose(acts.moments.variance, exact.var(0), rtol=1e-6)
    assert acts.moments.max_abs == np.abs(exact).max()
    assert (acts.moments.count, acts.moments.nonfinite) == (700, 0)


@pytest.mark.parametrize("way", ["slice", "gather", "shuffled"])
@pytest.mark.parametrize("at", [0, 999, -30, -1])
def test_a_flipped_byte_is_never_returned_as_data(tmp_path, way, at):
    x = np.random.default_rng(0).normal(size=(700, 24)).astype(np.float32)
    cache = build_cache(Lake(str(tmp_path)), {"embed": x}, [documents(100)], unit=64)
    path = cache.segments[0].array(Site("embed")).local / "c.1.0"
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    acts = cache.site("embed")
    read = {
        "slice": lambda: acts[:],
        "gather": lambda: acts[np.arange(0, 700, 5)],
        "shuffled": lambda: list(acts.shuffled()),
    }
    with pytest.raises(RunError, match=r"c\.1\.0 is damaged"):
        read[way]()


def test_a_site_that_is_not_there_is_named_with_those_that_are(make_cache):
    cache = make_cache({"embed": np.zeros((7, 2)), "resid.3": np.zeros((7, 2))}, documents(1))
    with pytest.raises(InputError, match=r"no site resid.9; it holds embed, resid.3"):
        cache.site("resid.9")


def test_position_is_a_plain_value():
    assert Position(epoch=1, batch=2) == Position(epoch=1, batch=2)


@pytest.mark.parametrize("batch", range(12))
def test_a_reader_resumes_in_any_of_several_windows(any_lake, monkeypatch, batch):
    monkeypatch.setattr("storage.layout.CHUNK_BYTES", 2**9)
    monkeypatch.setattr("storage.shuffle.WINDOW_ROWS", 200)
    x = np.arange(700.0)[:, None]
    acts = build_cache(any_lake, {"embed": x}, [documents(60), documents(40)], unit=64).site("embed")
    whole = [x_BD.tolist() for x_BD in acts.shuffled(64, seed=3)]
    assert len(whole) == 11
    rest = acts.shuffled(64, seed=3, position=Position(epoch=0, batch=batch))
    assert [x_BD.tolist() for x_BD in rest] == whole[batch:]


def test_rows_are_asked_for_by_number_or_by_mask_and_nothing_else(make_cache):
    x = np.arange(70.0)[:, None]
    acts = make_cache({"embed": x}, documents(10)).site("embed")
    mask = x[:, 0] % 7 == 3
    np.testing.assert_array_equal(acts[mask], x[mask])
    for wrong in (mask[:5], np.array([1.5, 2.0]), np.array([[1, 2]])):
        with pytest.raises(IndexError, match=r"wanted integers \[n\], or bool \[70\]"):
            acts[wrong]
    with pytest.raises(IndexError, match="70 to 70 asked of embed, which has 70"):
        acts[np.array([70])]


def test_a_reader_can_be_sent_to_another_process(tmp_path):
    x = np.arange(70.0)[:, None]
    acts = build_cache(Lake(str(tmp_path)), {"embed": x}, [documents(10)]).site("embed")
    acts[3]
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(acts))[:], x)


def test_more_shards_than_may_be_mapped_at_once_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr("storage.shards._MAPS", 2)
    x = np.arange(700.0)[:, None]
    acts = build_cache(Lake(str(tmp_path)), {"embed": x}, [documents(100)], unit=64).site("embed")
    np.testing.assert_array_equal(acts[:], x)
    np.testing.assert_array_equal(np.sort(np.concatenate(list(acts.shuffled(64)))[:, 0]), x[:, 0])
    assert len(acts._shards[0]._objects) == 2
