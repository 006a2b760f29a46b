"""What `gc` takes and what it leaves, case by case."""

import time

import numpy as np
import pytest

from storage import Cache, InputError, Lake
from storage.artifact import ArtifactWriter, Input, Record
from storage.collect import collect
from storage.lease import take
from storage.pins import pin, unpin
from storage.removal import PURGING, REMOVED, alone, mark, purge, revive, take_back
from storage.retention import retain
from storage.sweep import find, look
from storage.verify import verify
from tests.conftest import Doc, build_cache

DAY = 86_400.0
X_ND = np.arange(40, dtype=np.float32).reshape(10, 4)


@pytest.fixture(params=["memory", "disk", pytest.param("s3", marks=pytest.mark.s3)])
def lake(request, tmp_path):
    if request.param == "memory":
        return Lake(f"memory://sweep-{tmp_path.name}")
    return Lake(str(tmp_path / "lake") if request.param == "disk" else request.getfixturevalue("bucket"))


def cache_of(lake, segments=1, name="tiny.words"):
    documents = [[Doc("a b c"), Doc("d e")]] * segments
    return build_cache(lake, {"resid.0": np.tile(X_ND, (segments, 1))}, documents, name=name)


def artifact_of(lake, name, cache=None, window=(0, 1), previous=""):
    writer = ArtifactWriter(lake.artifact_folder(name))
    writer.write("weights.bin", name.encode())
    inputs = {"c": Input(cache=cache.id, first=window[0], segments=window[1], sites=("resid.0",))} if cache else {}
    record = Record(
        kind=name.split("-")[0], id=name.split("-")[1], config={}, inputs=inputs, report={}, files=writer.files,
        versions={}, seconds=0.0, previous=previous,
    )  # fmt: skip
    writer.close(record)
    return name


def held(lake, name, uses=()):
    """A lease whose sign of life is seen soon."""
    return take(lake.folder, name, uses=uses, beat=0.05)


def swept(lake, days=0.0, grace=DAY):
    """What a gc takes `days` from now, by path and reason."""
    ahead = lake.folder.clock() + days * DAY
    foreseen = list(find(lake, look(lake, grace, lambda: ahead)))
    done = list(collect(lake, grace, lambda: ahead))
    assert done == foreseen, "a dry run says what is done"
    return [(one.path, one.action) for one in done if one.path != "leases/run.x"]


def objects(lake):
    return {one.path for one in lake.folder.tree() if not one.path.startswith("leases/")}


def test_nothing_goes_of_a_lake_in_which_all_is_whole(lake):
    cache = cache_of(lake, segments=2)
    artifact_of(lake, "sae-000000000001", cache, (0, 2))
    before = objects(lake)
    assert swept(lake, days=400) == []
    assert objects(lake) == before


def test_what_is_marked_goes_after_the_grace_and_not_before(lake):
    cache = cache_of(lake)
    mark(cache.folder, REMOVED)
    assert lake.caches() == ()
    assert lake.find(cache.record) is None
    assert swept(lake, days=0.5) == []
    assert (cache.folder / "segments/00000").exists("plan.json")
    assert swept(lake, days=2) == [(f"caches/{cache.id}", "purge")]
    assert not any(path.startswith("caches/") for path in objects(lake))
    assert swept(lake, days=2) == []


@pytest.mark.parametrize("hours", [-48, -1 / 6, 1 / 6, 48])
def test_age_is_by_the_stores_clock_and_not_by_ours(lake, hours, monkeypatch):
    cache = cache_of(lake)
    mark(cache.folder, REMOVED)
    wrong = time.time() + hours * 3600
    monkeypatch.setattr("time.time", lambda: wrong)
    assert list(collect(lake, DAY)) == []
    assert cache.folder.exists("cache.json")


def test_what_artifacts_pins_or_leases_hold_stays_though_it_is_marked(lake):
    cache = cache_of(lake)
    mark(cache.folder, REMOVED)
    artifact_of(lake, "sae-000000000001", cache)
    path = f"caches/{cache.id}"
    assert swept(lake, days=9) == [(path, "keep")]
    mark(lake.artifact_folder("sae-000000000001"), REMOVED)
    pin(lake.folder, path, "the paper")
    assert swept(lake, days=9) == [(path, "keep"), ("artifacts/sae-000000000001", "purge")][::-1]
    unpin(lake.folder, path)
    with held(lake, "run.x", uses=(path,)):
        assert swept(lake, days=9) == [(path, "keep")]
    assert (path, "purge") in swept(lake, days=9)


def test_what_a_pinned_artifact_stands_on_is_pinned_with_it(lake):
    cache, other = cache_of(lake), cache_of(lake, name="other.words")
    first = artifact_of(lake, "sae-000000000001", cache)
    second = artifact_of(lake, "sae-000000000002", other, previous=first)
    pin(lake.folder, f"artifacts/{second}", "")
    pinned = look(lake).references.pinned
    assert set(pinned) == {f"artifacts/{first}", f"artifacts/{second}", f"caches/{cache.id}", f"caches/{other.id}"}


def test_a_purge_that_was_killed_is_finished_and_cannot_be_undone(lake):
    cache = cache_of(lake)
    mark(cache.folder, REMOVED)
    mark(cache.folder, PURGING)
    cache.folder.remove("segments/00000/plan.json")
    with pytest.raises(InputError, match="half removed already"):
        take_back(cache.folder)
    assert swept(lake, days=0) == [(f"caches/{cache.id}", "purge")]
    assert not any(path.startswith("caches/") for path in objects(lake))


def test_a_purge_leaves_its_marks_till_last(lake):
    cache, seen = cache_of(lake), []
    mark(cache.folder, REMOVED)
    real = type(cache.folder).remove

    def remove(folder, name):
        seen.append(name)
        return real(folder, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(cache.folder), "remove", remove)
        purge(cache.folder)
    last = seen.index("cache.json")
    assert seen[last : last + 4] == ["cache.json", "record.json", REMOVED, PURGING]
    assert {"segments/00000", "segments/00000/sites/resid.0", "segments/00000/tokens"} < set(seen[:last])


def test_a_purge_that_is_killed_after_its_first_removal_has_no_way_back(lake, monkeypatch):
    cache = cache_of(lake)
    mark(cache.folder, REMOVED)
    real = type(cache.folder).remove

    def remove(folder, name):
        real(folder, name)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(cache.folder), "remove", remove)
        with pytest.raises(KeyboardInterrupt):
            purge(cache.folder)
    assert not cache.folder.names("segments/00000/done/resid.0")
    with pytest.raises(InputError, match="half removed already"):
        take_back(cache.folder)
    assert lake.caches() == ()


def test_a_marked_cache_that_is_asked_for_again_stays_as_it_is(lake):
    cache = cache_of(lake)
    before = objects(lake)
    mark(cache.folder, REMOVED)
    again = lake.create(cache.record)
    assert again.id == cache.id
    assert objects(lake) == before
    np.testing.assert_array_equal(Cache(again.folder).site("resid.0")[:], X_ND[:5])


def test_a_half_purged_cache_that_is_asked_for_again_is_made_anew(lake):
    cache = cache_of(lake)
    mark(cache.folder, REMOVED)
    mark(cache.folder, PURGING)
    again = lake.create(cache.record)
    assert again.segments == ()
    assert not again.folder.exists(PURGING)
    revive(again.folder)  # nothing to do
    assert again.folder.exists("cache.json")


def test_removal_waits_for_whoever_works_on_it(lake):
    cache = cache_of(lake)
    mark(cache.folder, REMOVED)
    with held(lake, f"cache.{cache.id}"):
        assert [(one.path, one.action) for one in collect(lake, 0.0, lambda: 1e12)] == [(f"caches/{cache.id}", "keep")]
        with pytest.raises(InputError, match="is in use by"), alone(lake.folder, f"caches/{cache.id}"):
            pass


def test_left_overs_of_killed_writers_go(lake):
    cache = cache_of(lake)
    temporary = f"segments/00000/sites/.c.0.0.{'0f' * 16}.tmp"
    cache.folder.create(temporary, b"half a shard")
    lake.folder.create(f"probe-{'ab' * 16}", b"")
    before = objects(lake)
    assert swept(lake, days=0.5) == []
    assert set(swept(lake, days=2)) == {("", "drop"), (f"caches/{cache.id}", "drop")}
    assert before - objects(lake) == {f"caches/{cache.id}/{temporary}", f"probe-{'ab' * 16}"}


def test_attempts_that_no_record_names_go(lake):
    name = artifact_of(lake, "sae-000000000001")
    folder = lake.artifact_folder(name)
    folder.create("attempt-00000000/weights.bin", b"of a job that was killed")
    lake.artifact_folder("sae-000000000002").create("attempt-00000001/weights.bin", b"that never ended")
    with held(lake, "run.x", uses=("artifacts/sae-000000000002",)):
        assert swept(lake, days=2) == [(f"artifacts/{name}", "drop")]
    assert swept(lake, days=2) == [("artifacts/sae-000000000002", "drop")]
    assert lake.artifact(name).read("weights.bin") == name.encode()
    assert not folder.exists("attempt-00000000/weights.bin")


def test_a_last_segment_that_was_never_sealed_goes_with_its_claim_last(lake):
    cache = cache_of(lake, segments=2)
    cache.folder.remove("segments/00001/sealed")
    with held(lake, "run.x", uses=(f"caches/{cache.id}",)):
        assert swept(lake, days=9) == []
    assert swept(lake, days=9) == [(f"caches/{cache.id}", "drop")]
    left = Cache(cache.folder)
    assert len(left.segments) == 1
    assert left.next_segment().number == 1
    assert not any("segments/00001" in path for path in objects(lake))


def test_a_site_that_was_never_sealed_goes_alone_and_its_marks_first(lake):
    cache = build_cache(lake, {"embed": X_ND, "resid.0": X_ND}, [[Doc("a b c")], [Doc("d e")]])
    cache.folder.remove("segments/00000/sealed/embed.json")
    (one,) = find(lake, look(lake, DAY, lambda: lake.folder.clock() + 9 * DAY))
    kinds = [path.split("/")[4] for path in one.objects]
    assert kinds == sorted(kinds)  # done before sites
    swept(lake, days=9)
    left = Cache(cache.folder)
    assert [str(site) for site in left.sites] == ["resid.0"]
    assert not any("00000/sites/embed" in path or "00000/done/embed" in path for path in objects(lake))
    assert all(not checked.findings for checked in verify(left))


def test_old_segments_expire_but_the_last_and_go_when_no_artifact_stands_on_them(lake):
    cache = cache_of(lake, segments=3)
    path = f"caches/{cache.id}"
    artifact_of(lake, "sae-000000000001", cache, (0, 1))
    retain(lake.folder, path, 30 * DAY)
    assert swept(lake, days=20) == []
    assert swept(lake, days=31) == [(f"{path}/segments/0000{n}", "expire") for n in (0, 1)]
    left = Cache(cache.folder)
    assert [segment.number for segment in left.segments] == [2]
    assert (left.n_claimed, len(left.taken)) == (3, 3)
    np.testing.assert_array_equal(left.site("resid.0")[:], np.tile(X_ND, (3, 1))[10:15])
    assert swept(lake, days=0.5) == []
    assert swept(lake, days=33) == [(path, "keep"), (path, "drop")]
    assert cache.folder.exists("segments/00000/tokens/part-00000.parquet")
    assert not cache.folder.exists("segments/00001/tokens/part-00000.parquet")
    assert cache.folder.exists("segments/00001/plan.json")
    assert [segment.number for segment in Cache(cache.folder).segments] == [2]


def test_a_pinned_cache_does_not_expire(lake):
    cache = cache_of(lake, segments=2)
    pin(lake.folder, f"caches/{cache.id}", "")
    retain(lake.folder, f"caches/{cache.id}", DAY)
    assert swept(lake, days=400) == []


def test_the_last_word_on_retention_stands(lake):
    cache = cache_of(lake, segments=2)
    for seconds in (DAY, None):
        retain(lake.folder, f"caches/{cache.id}", seconds)
    assert swept(lake, days=400) == []


def test_an_artifact_whose_time_is_over_is_marked_unless_one_went_on_from_it(lake):
    first = artifact_of(lake, "sae-000000000001")
    second = artifact_of(lake, "sae-000000000002", previous=first)
    for name in (first, second):
        retain(lake.folder, f"artifacts/{name}", 2 * DAY)
    assert swept(lake, days=3) == [(f"artifacts/{second}", "mark")]
    assert lake.artifacts() == (first,)
    assert swept(lake, days=6) == [(f"artifacts/{second}", "purge"), (f"artifacts/{first}", "mark")]


def test_runs_and_their_leases_go_when_their_time_is_over_and_none_that_lives(lake):
    for name in ("2026-01-01-aaaaaaaa", "2026-01-02-bbbbbbbb"):
        (lake.folder / f"runs/{name}").create("started.json", b"{}")
    with held(lake, "run.2026-01-01-aaaaaaaa"):
        pass
    live = held(lake, "run.2026-01-02-bbbbbbbb")
    assert swept(lake, days=9) == [("leases/run.2026-01-01-aaaaaaaa", "drop")]
    retain(lake.folder, "runs", 5 * DAY)
    assert swept(lake, days=9) == [("runs/2026-01-01-aaaaaaaa", "drop")]
    live.release()
    assert lake.folder.names("runs") == ("2026-01-02-bbbbbbbb",)


def test_the_newest_sealed_segment_never_expires_though_a_run_died_in_a_later_one(lake):
    cache = cache_of(lake, segments=3)
    cache.folder.remove("segments/00002/sealed")
    retain(lake.folder, f"caches/{cache.id}", 2 * DAY)
    path = f"caches/{cache.id}"
    assert swept(lake, days=9) == [(f"{path}/segments/00000", "expire"), (path, "drop")]
    left = Cache(cache.folder)
    assert [segment.number for segment in left.segments] == [1]
    np.testing.assert_array_equal(left.site("resid.0")[:], np.tile(X_ND, (2, 1))[5:10])


def test_a_sealed_site_of_a_kind_that_only_a_later_garner_knows_stays(lake):
    cache = cache_of(lake)
    folder = cache.folder / "segments/00000"
    for one in folder.tree():
        if "resid.0" in one.path:
            folder.create(one.path.replace("resid.0", "later.kind"), folder.read(one.path))
    folder.remove("sealed/resid.0.json")
    assert swept(lake, days=9) == [(f"caches/{cache.id}", "drop")]
    assert folder.exists("sites/later.kind/c.0.0")
    assert not folder.exists("sites/resid.0/c.0.0")


def test_what_was_begun_since_gc_looked_is_not_its_business(lake):
    cache = cache_of(lake)
    around = look(lake, DAY, lambda: lake.folder.clock() + 9 * DAY)
    cache.next_segment().claim(cache.segments[0].claimed)
    assert list(find(lake, around)) == []


def test_left_overs_of_a_cache_that_is_at_work_stay_and_a_dry_run_says_the_same(lake):
    cache = cache_of(lake)
    cache.folder.create(f"segments/00000/.c.0.0.{'0f' * 16}.tmp", b"half a shard")
    with held(lake, f"cache.{cache.id}", uses=(f"caches/{cache.id}",)):
        assert swept(lake, days=2) == []
    assert swept(lake, days=2) == [(f"caches/{cache.id}", "drop")]
