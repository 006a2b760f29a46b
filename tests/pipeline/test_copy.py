"""`garner copy`: the same cache elsewhere, whole whenever it is killed, and nothing damaged arrives."""

import argparse
import itertools
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import fsspec
import numpy as np
import pytest

import storage.url
from pipeline.commands import copying
from pipeline.copying import copied
from pipeline.progress import Progress
from storage import InputError, Lake, RunError
from storage.artifact import ArtifactWriter, Input, Record
from storage.cache import Cache
from storage.lease import take
from storage.removal import EXPIRED, Removal
from storage.url import Folder
from storage.value import signed
from storage.verify import verify
from tests.pipeline import tiny

ROOT = Path(__file__).resolve().parents[2]
COMMAND = """
import sys
from pipeline.copying import copied
from pipeline.progress import Progress
print(*copied(*sys.argv[1:], Progress()))
"""
_numbers = itertools.count()


@pytest.fixture(scope="module")
def harvest_short(decoder):
    """`harvest_short(base, **recipe)`: the cache of `base`/docs, cut into several units and shards."""

    def run(base, sites=("embed", "resid.0"), **recipe):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("storage.layout.CHUNK_BYTES", 4 * tiny.WIDTH * 4)
            patch.setattr("storage.layout.SHARD_BYTES", 16 * tiny.WIDTH * 4)
            patch.setattr("storage.layout.UNIT_SEQUENCES", 1)
            table = tiny.table(decoder, base, unit=256, sites=list(sites), compress="zstd")
            return tiny.harvest(table | recipe, base)

    return run


@pytest.fixture(scope="module")
def origin(tmp_path_factory, harvest_short):
    """A lake with one cache: two segments, two sites, several units and shards."""
    base = tmp_path_factory.mktemp("origin")
    for name, texts in (("a", tiny.TEXTS), ("b", tiny.TEXTS[:5])):
        tiny.write_texts(base / "docs" / f"{name}.jsonl", texts)
        harvest_short(base)
    return base


@pytest.fixture
def lake(origin, tmp_path):
    """A copy of that lake that the test may spoil."""
    shutil.copytree(origin / "lake", tmp_path / "lake")
    return tmp_path / "lake"


@pytest.fixture
def there():
    """The URL of an empty lake."""
    return f"memory://copied-{next(_numbers)}"


def copy(lake, destination, name=None, **options):
    """What `garner copy` prints."""
    one = name or Lake(str(lake)).caches()[0]
    return "\n".join(copied(str(lake), one, str(destination), Progress(live=False), **options))


def objects(lake, kind="caches"):
    """Every object of a lake with its bytes; the temporary ones of killed writers and probes are none."""
    fs, path = fsspec.url_to_fs(str(Folder.at(str(lake)) / kind))
    names = [name for name in fs.find(path) if not name.rpartition("/")[2].startswith((".", "probe-"))]
    return {name[len(path) :].lstrip("/"): fs.cat_file(name) for name in names}


@pytest.mark.parametrize("remote", [True, False])
def test_a_copy_is_the_same_cache_object_for_object(lake, there, tmp_path, remote):
    target = there if remote else str(tmp_path / "other")
    said = copy(lake, target)
    assert objects(target) == objects(lake)
    (name,) = Lake(target).caches()
    mine, copied = Lake(str(lake)).cache(name), Lake(target).cache(name)
    assert (copied.id, copied.n_rows, copied.sites) == (mine.id, mine.n_rows, mine.sites)
    np.testing.assert_array_equal(copied.site("embed")[:], mine.site("embed")[:])
    assert "verified" in said
    assert f"{len(objects(lake)) - 1} objects sent" in said  # the first makes the cache


def test_a_run_at_the_destination_finds_the_cache_done(origin, harvest_short, tmp_path):
    copy(origin / "lake", tmp_path / "there")
    _, progress = harvest_short(origin, lake=str(tmp_path / "there"))
    assert progress.forward_tokens == 0


def test_a_site_that_was_harvested_there_stays_and_the_others_join_it(tmp_path, harvest_short):
    tiny.write_texts(tmp_path / "docs" / "a.jsonl", tiny.TEXTS)
    harvest_short(tmp_path)
    harvest_short(tmp_path, sites=["embed"], lake="there")
    before = objects(tmp_path / "there")
    copy(tmp_path / "lake", tmp_path / "there")
    mine, after = objects(tmp_path / "lake"), objects(tmp_path / "there")
    assert set(after) == set(mine)
    assert before.items() <= after.items()
    assert {name for name in mine if mine[name] != after[name]} <= set(before)
    assert all(after[name] == mine[name] for name in mine if "resid.0" in name)


def test_what_is_there_is_not_sent_again(lake, there):
    copy(lake, there)
    assert "0 objects sent" in copy(lake, there)


class Died(BaseException):
    """The end of a process."""


def mortal(monkeypatch, lives):
    """Let nothing be created in memory after so many objects of caches; counts them."""
    create, count = storage.url._create_in_memory, itertools.count(1)

    def dies(fs, path, data):
        if "/caches/" in path and next(count) > lives:
            raise Died
        return create(fs, path, data)

    monkeypatch.setattr("storage.url._create_in_memory", dies)


def test_a_copy_that_dies_after_any_object_shows_only_whole_sites_and_is_finished_by_the_next(lake, monkeypatch):
    whole = objects(lake)
    seen = set()
    for lives in range(0, len(whole) + 4, 5):
        url = f"memory://died-{next(_numbers)}"
        with monkeypatch.context() as patch:
            mortal(patch, lives)
            with suppress(Died):
                copy(lake, url)
        for name in Lake(url).caches():
            cache = Lake(url).cache(name)
            seen.add(len(cache.sites))
            for site in cache.sites:
                rows = len(cache.site(site))
                np.testing.assert_array_equal(cache.site(site)[:], Lake(str(lake)).cache(name).site(site)[:rows])
        copy(lake, url)
        assert objects(url) == whole, f"died after {lives} objects"
    assert {0, 2} <= seen


def test_a_copy_killed_from_outside_is_finished_by_the_same_command(lake, tmp_path):
    target, name = tmp_path / "other", Lake(str(lake)).caches()[0]
    command = [sys.executable, "-c", COMMAND, str(lake), name, str(target)]
    killed = 0
    for wanted in (1, 8, 16):
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and sum(1 for _ in target.rglob("c.*.0")) < wanted:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
    assert killed
    assert subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 0
    assert objects(target) == objects(lake)


def spoil(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "kind",
    [
        "segments/00000/files.json",
        "segments/00000/plan.json",
        "segments/00000/tokens/part-00000.parquet",
        "segments/00000/sites/embed/zarr.json",
        "segments/00000/sites/embed/c.1.0",
        "segments/00001/sites/resid.0/c.0.0",
        "segments/00000/done/embed/00000.json",
        "segments/00001/sealed/embed.json",
    ],
)
@pytest.mark.parametrize("lost", [False, True])
def test_a_damaged_object_is_refused_by_name_and_nothing_wrong_arrives(lake, there, kind, lost):
    good = objects(lake)
    (folder,) = (lake / "caches").iterdir()
    if lost:
        (folder / kind).unlink()
    else:
        spoil(folder / kind)
    if lost and kind == "segments/00001/sealed/embed.json":  # a site without its seal is none
        assert "left out: embed of segment 1" in copy(lake, there)
    else:
        with pytest.raises(RunError, match=kind.rpartition("/")[2]):
            copy(lake, there)
    arrived = objects(there)
    assert arrived.items() <= good.items()
    for name in Lake(there).caches():
        assert not [
            one for one in verify(Lake(there).cache(name)) if one.findings and one.what in ("records", "tokens")
        ]


def test_only_sealed_sites_are_copied_and_the_others_are_named(lake, there):
    (folder,) = (lake / "caches").iterdir()
    (folder / "segments/00001/sealed/resid.0.json").unlink()
    said = copy(lake, there)
    assert "left out: resid.0 of segment 1, which are not sealed" in said
    cache = Lake(there).cache(folder.name)
    assert not [name for name in objects(there) if "/00001/" in name and "resid.0" in name]
    assert len(cache.site("resid.0")) < len(cache.site("embed")) == cache.n_rows


def test_a_segment_without_a_sealed_site_is_left_out(lake, there):
    (folder,) = (lake / "caches").iterdir()
    shutil.rmtree(folder / "segments/00001/sealed")
    assert "left out: segments from 1 on" in copy(lake, there)
    assert len(Lake(there).cache(folder.name).segments) == 1


@pytest.mark.parametrize("record", ["files.json", "plan.json"])
def test_a_destination_whose_later_segment_is_another_is_refused_before_anything_is_sent(lake, there, record):
    (folder,) = (lake / "caches").iterdir()
    other = Folder.at(there) / f"caches/{folder.name}"
    for name in ("cache.json", "segments/00000/files.json", "segments/00001/files.json"):
        other.create(name, (folder / name).read_bytes())
    other.remove(f"segments/00001/{record}")
    other.create(f"segments/00001/{record}", (folder / "segments/00000" / record).read_bytes())
    before = objects(there)
    with pytest.raises(InputError, match=rf"00001/{record} is there and is another"):
        copy(lake, there)
    assert objects(there) == before


def test_a_shard_of_anothers_harvest_is_refused_before_a_mark_vouches_for_it(lake, there):
    (folder,) = (lake / "caches").iterdir()
    other = Folder.at(there) / f"caches/{folder.name}"
    other.create("cache.json", (folder / "cache.json").read_bytes())
    other.create("segments/00000/sites/embed/c.0.0", b"another's")
    with pytest.raises(InputError, match=r"c\.0\.0 is there and is another"):
        copy(lake, there)
    assert not [name for name in objects(there) if "done/embed/00000" in name or "sealed/embed" in name]


def test_an_expired_segment_is_copied_as_its_records(lake, there):
    (folder,) = (lake / "caches").iterdir()
    marked = Folder.at(str(folder)) / "segments/00000"
    marked.create(EXPIRED, signed(Removal(owner="a@b", time="2026-01-01T00:00:00+00:00")))
    copy(lake, there)
    kept = {name.rpartition("/")[2] for name in objects(there) if "/00000/" in name}
    assert kept == {"files.json", "plan.json", EXPIRED}
    cache = Lake(there).cache(folder.name)
    assert [segment.number for segment in cache.segments] == [1]
    assert set(cache.taken) == set(Cache(Folder.at(str(folder))).taken)


def test_a_cache_that_another_works_on_there_is_refused(lake, there):
    (name,) = Lake(str(lake)).caches()
    with take(Folder.at(there), f"cache.{name}"), pytest.raises(RunError, match="copy again once that has ended"):
        copy(lake, there)


def test_a_cache_marked_for_removal_at_the_destination_is_refused(lake, there):
    (name,) = Lake(str(lake)).caches()
    (Folder.at(there) / f"caches/{name}").create("removed.json", b"")
    with pytest.raises(InputError, match="marked for removal"):
        copy(lake, there)


def test_copying_a_lake_into_itself_is_refused(lake):
    with pytest.raises(InputError, match="name another"):
        copy(lake, lake)


def artifact(lake, name, cache, previous=""):
    """A small finished artifact over the first segment of a cache."""
    writer = ArtifactWriter(Lake(str(lake)).artifact_folder(name))
    writer.write("weights.bin", name.encode() * 100)
    record = Record(
        kind="sae", id=name.rpartition("-")[2], config={}, report={"headline": "h", "metrics": []}, versions={},
        inputs={"c": Input(cache=cache, segments=1, sites=("embed",))}, files=writer.files, seconds=1.0,
        previous=previous,
    )  # fmt: skip
    writer.close(record)


def test_an_artifact_is_copied_with_what_it_stands_on_where_asked(lake, there):
    (cache,) = Lake(str(lake)).caches()
    artifact(lake, "sae-000000000001", cache)
    artifact(lake, "sae-000000000002", cache, previous="sae-000000000001")
    copy(lake, there, "sae-000000000002")
    assert Lake(there).artifacts() == ("sae-000000000002",)
    assert Lake(there).caches() == ()
    copy(lake, there, "sae-000000000002", with_inputs=True)
    assert objects(there, "artifacts") == objects(lake, "artifacts")
    assert objects(there) == objects(lake)


def test_a_damaged_file_of_an_artifact_is_refused_and_no_record_arrives(lake, there):
    (cache,) = Lake(str(lake)).caches()
    artifact(lake, "sae-000000000001", cache)
    spoil(next((lake / "artifacts").rglob("weights.bin")))
    with pytest.raises(RunError, match=r"weights\.bin is damaged"):
        copy(lake, there, "sae-000000000001")
    assert Lake(there).artifacts() == ()


def test_the_commands_copy_and_export(lake, tmp_path, capsys):
    parser = argparse.ArgumentParser()
    copying.add(parser.add_subparsers())
    (name,) = Lake(str(lake)).caches()
    for words in (
        ["copy", str(lake), name, str(tmp_path / "other"), "--no-verify"],
        ["export", str(tmp_path / "other"), name, str(tmp_path / "out"), "--site", "embed"],
    ):
        arguments = parser.parse_args(words)
        assert arguments.command(arguments) == 0
    said = capsys.readouterr().out
    assert "objects sent" in said
    assert "verified" not in said
    assert "begin with README.md" in said
