"""What looks abandoned and is not, what a store does not tell, and commands that are refused half way."""

import os

import pytest

from pipeline import keeping
from pipeline.keeping import marked, unmarked
from storage import Cache, InputError, Lake, collect
from storage.pins import pin
from storage.removal import REMOVED, alone, mark, purge
from storage.retention import retain
from storage.runs import RunRecord, Start
from storage.value import signed
from tests.storage.test_sweep import DAY, artifact_of, cache_of, held, swept


@pytest.fixture(params=["memory", "disk"])
def lake(request, tmp_path):
    return Lake(f"memory://kept-{tmp_path.name}" if request.param == "memory" else str(tmp_path / "lake"))


@pytest.mark.parametrize("segments", [1, 2])
@pytest.mark.parametrize("wanted", ["made from", "pinned"])
def test_a_segment_that_a_repair_opened_again_stays_where_somebody_stands_on_it(lake, segments, wanted):
    cache = cache_of(lake, segments=segments)
    if wanted == "pinned":
        pin(lake.folder, f"caches/{cache.id}", "")
    else:
        artifact_of(lake, "sae-000000000001", cache, (0, segments))
    cache.folder.remove("segments/00000/sealed/resid.0.json")
    before = {one.path for one in cache.folder.tree()}
    assert swept(lake, days=9) == []
    assert {one.path for one in cache.folder.tree()} == before


def test_a_site_that_no_artifact_read_goes_though_its_segment_was_read(lake):
    cache = cache_of(lake)
    artifact_of(lake, "sae-000000000001", cache)
    cache.folder.create("segments/00000/sites/embed/c.0.0", b"of a run that was killed")
    assert swept(lake, days=9) == [(f"caches/{cache.id}", "drop")]
    assert cache.folder.names("segments/00000/sites") == ("resid.0", "zarr.json")


def test_temporaries_within_what_goes_are_told_once_and_hinder_nothing(lake):
    cache = cache_of(lake, segments=2)
    cache.folder.remove("segments/00001/sealed")
    cache.folder.create(f"segments/00001/sites/.c.0.0.{'0f' * 16}.tmp", b"half a shard")
    assert swept(lake, days=9) == [(f"caches/{cache.id}", "drop")] * 2
    assert len(Cache(cache.folder).segments) == 1
    assert not any("segments/00001" in one.path for one in cache.folder.tree())


def test_segments_expire_from_the_first_on_or_not_at_all(lake, monkeypatch):
    cache = cache_of(lake, segments=3)
    retain(lake.folder, f"caches/{cache.id}", DAY)
    times = []

    def busy_at_first(*arguments):
        times.append(arguments)
        if len(times) == 1:
            raise InputError("a harvest is just ending")
        return alone(*arguments)

    ahead = lake.folder.clock() + 5 * DAY
    monkeypatch.setattr(collect, "alone", busy_at_first)
    assert [one.action for one in collect.collect(lake, DAY, lambda: ahead)] == ["keep", "keep"]
    assert [one.number for one in Cache(cache.folder).segments] == [0, 1, 2]


def test_a_folder_that_cannot_be_listed_is_not_taken_for_empty(tmp_path, monkeypatch):
    lake = Lake(str(tmp_path / "lake"))
    cache, real = cache_of(lake), os.scandir
    ahead = lake.folder.clock() + 9 * DAY

    def scandir(path):
        if str(path).endswith("/sealed"):
            raise OSError(116, "Stale file handle")
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", scandir)
        with pytest.raises(InputError, match="Stale file handle"):
            list(collect.collect(lake, DAY, lambda: ahead))
    assert (cache.folder / "segments/00000").exists("files.json")


def test_shards_of_a_writer_that_outlived_its_cache_go_unless_something_is_sealed(lake):
    for name, seal in (("gone", ""), ("lost", "sealed/resid.0.json")):
        segment = lake.folder / f"caches/{name}.words-000000000000/segments/00000"
        segment.create("sites/resid.0/c.0.0", b"rows")
        if seal:
            segment.create(seal, b"{}")
    assert swept(lake, days=0.5) == []
    assert swept(lake, days=2) == [("caches/gone.words-000000000000", "drop")]
    assert lake.folder.names("caches") == ("lost.words-000000000000",)


def test_the_last_good_night_of_each_schedule_stays_for_its_ledger(lake):
    for day, name, status in ((1, "wiki", "done"), (2, "wiki", "done"), (3, "wiki", "failed"), (1, "news", "done")):
        run = f"2026-01-0{day}-{name}"
        start = Start(id=run, recipe=name, digest="", owner="", time="", versions={})
        night = {"schedule": name, "slot": f"2026-01-0{day}T02:00:00+00:00", "term": day}
        (lake.folder / f"runs/{run}").create("started.json", signed(start))
        record = RunRecord(start=start, status=status, seconds=1.0, steps=(), night=night)
        (lake.folder / f"runs/{run}").create("record.json", signed(record))
    retain(lake.folder, "runs", DAY)
    assert len(swept(lake, days=9)) == 2
    assert lake.folder.names("runs") == ("2026-01-01-news", "2026-01-02-wiki")


def test_artifacts_that_went_on_from_each_other_are_taken_back_together(lake):
    cache = cache_of(lake)
    first = artifact_of(lake, "sae-000000000001", cache)
    second = artifact_of(lake, "sae-000000000002", cache, previous=first)
    list(marked(lake, [cache.id, first, second], ""))
    with pytest.raises(InputError, match=f"was made from {first}, {cache.id}"):
        list(unmarked(lake, [second]))
    assert lake.artifacts() == ()
    list(unmarked(lake, [second, first, cache.id]))
    assert (lake.caches(), lake.artifacts()) == ((cache.id,), (first, second))


def test_what_gc_took_in_the_meantime_is_not_said_to_stay(lake, monkeypatch):
    cache = cache_of(lake)
    mark(cache.folder, REMOVED)

    def late(*arguments):
        purge(cache.folder)
        return alone(*arguments)

    monkeypatch.setattr(keeping, "alone", late)
    with pytest.raises(InputError, match="not marked for removal"):
        list(unmarked(lake, [cache.id]))


def test_rm_of_several_marks_all_or_none(lake, monkeypatch):
    one, other = cache_of(lake, name="a.words"), cache_of(lake, name="b.words")
    real, looks, leases = keeping.references, [], []

    def meanwhile(*arguments):
        looks.append(arguments)
        if len(looks) == 3:  # once for both, then under the lease of each
            leases.append(held(lake, "run.x", uses=(f"caches/{other.id}",)))
        return real(*arguments)

    monkeypatch.setattr(keeping, "references", meanwhile)
    with pytest.raises(InputError, match="uses it now"):
        list(marked(lake, [one.id, other.id], ""))
    leases[0].release()
    assert set(lake.caches()) == {one.id, other.id}
