"""Whatever byte of whatever object of a cache is flipped: `verify` names the object, and no read returns the byte."""

import itertools
import json

import google_crc32c
import numpy as np
import pytest
from conftest import Doc, build_cache

from storage import Cache, Lake, RunError, Site
from storage.errors import GarnerError
from storage.value import signed
from storage.verify import verify
from workers.parity import Certificate


def documents(count):
    return [Doc(" ".join(f"w{n % 5}" for n in range(1 + number % 7)), {"even": number % 2}) for number in range(count)]


@pytest.fixture(params=["float32", "bfloat16", "int8"])
def cache(tmp_path, monkeypatch, request):
    monkeypatch.setattr("storage.layout.CHUNK_BYTES", 2**9)
    monkeypatch.setattr("storage.layout.SHARD_BYTES", 2**11)
    x = np.random.default_rng(0).standard_normal((400, 16), dtype=np.float32)
    made = build_cache(
        Lake(str(tmp_path)), {"embed": x, "resid.0": x[:, :8]}, [documents(50), documents(40)], request.param, unit=64
    )
    certificate = Certificate(made="now", model="m", sequences=0, seed=0, sites=())
    made.folder.create("certificates/now.json", signed(certificate))
    return made


def objects(cache):
    return sorted(path for path in cache.folder.local.rglob("*") if path.is_file())


def findings(cache):
    return [finding for one in verify(Cache(cache.folder)) for finding in one.findings]


def damaged(cache):
    """Paths of what is found; a damaged cache.json is named by the refusal to open it."""
    try:
        return [finding.path for finding in findings(cache)]
    except GarnerError as error:
        return [str(error).partition(" is damaged")[0]]


def everything(cache):
    """All that a reader can be told, as plain values."""
    opened = Cache(cache.folder)
    sites = {str(site): opened.site(site) for site in opened.sites}
    return {
        "rows": {name: acts[:].tobytes() for name, acts in sites.items()},
        "drawn": {name: [x.tobytes() for x in acts.shuffled(64)] for name, acts in sites.items()},
        "moments": {name: acts.moments for name, acts in sites.items()},
        "tokens": opened.tokens.table().to_pylist(),
        "record": opened.record,
    }


def test_a_whole_cache_has_no_findings(cache):
    assert findings(cache) == []


def test_a_flipped_byte_anywhere_is_found_with_its_object_and_never_read(cache):
    whole, kinds = everything(cache), set()
    for path in objects(cache):
        data = path.read_bytes()
        name = path.relative_to(cache.folder.local).as_posix()
        kinds.add(path.name if path.name == "zarr.json" else "/".join(name.split("/")[2:3]) or name.split("/")[0])
        for at in [*range(0, len(data), max(len(data) // 8, 1)), len(data) - 1]:
            flipped = bytearray(data)
            flipped[at] ^= 1 << at % 8
            path.write_bytes(flipped)
            assert set(damaged(cache)) == {str(path)}, (name, at)
            _check_unread(cache, whole, (name, at))
        path.write_bytes(data)
    assert len(kinds) >= 6
    assert findings(cache) == []


def _check_unread(cache, whole, what):
    try:
        found = everything(cache)
    except GarnerError:
        return
    assert found == whole, what


def test_a_lost_object_is_found_wherever_it_is_needed(cache):
    for path in objects(cache):
        name = path.relative_to(cache.folder.local).as_posix()
        if name == "cache.json" or name.endswith("files.json") or "certificates" in name:
            continue
        data = path.read_bytes()
        path.unlink()
        found = [finding.path for finding in findings(cache)]
        assert (str(path) in found) != ("sealed" in name), name
        path.write_bytes(data)


def test_marked_shards_are_checked_before_the_site_is_sealed(cache):
    folder = cache.folder.local / "segments/00000"
    (folder / "sealed/embed.json").unlink()
    shard = folder / "sites/embed/c.1.0"
    data = bytearray(shard.read_bytes())
    data[3] ^= 1
    shard.write_bytes(data)
    assert [finding.path for finding in findings(cache)] == [str(shard)]


def test_records_carry_the_checksum_that_the_page_describes(cache):
    records = [path for path in objects(cache) if path.suffix == ".json" and path.name != "zarr.json"]
    assert len(records) > 10
    for path, _ in zip(records, itertools.count(), strict=False):
        body, _, tail = path.read_bytes().rpartition(b',"crc32c":')
        assert int(tail[:-1]) == google_crc32c.value(body + b"}") == json.loads(path.read_bytes())["crc32c"]


def test_a_segment_lost_among_others_is_named_for_rows_would_have_other_numbers(cache):
    (cache.folder.local / "segments/00000/files.json").unlink()
    with pytest.raises(RunError, match=r"segments/00000/files\.json is lost"):
        everything(cache)
    with pytest.raises(RunError, match=r"files\.json is lost"):
        findings(cache)


def test_a_set_of_logits_that_is_lost_is_found(tmp_path):
    x = np.zeros((400, 3), np.float32)
    made = build_cache(Lake(str(tmp_path)), {"logits.answers": x}, [documents(90)])
    assert [finding.path for finding in findings(made)] == [f"{made.folder}/sets/answers.json"]


def test_metadata_that_were_spoilt_before_the_seal_are_not_sealed(cache):
    folder = cache.folder.local / "segments/00000"
    path = folder / "sites/embed/zarr.json"
    (folder / "sealed/embed.json").unlink()
    path.write_bytes(path.read_bytes().replace(b'"zarr_format": 3', b'"zarr_format": 4'))
    segment = Cache(cache.folder).segments[0]
    with pytest.raises(RunError, match="is not the metadata of this array"):
        segment.seal(Site("embed"), segment.layout(16, cache.record.identity.dtype))


def test_what_later_garners_add_is_passed_by(cache):
    segment = cache.folder.local / "segments/00000"
    (segment / "done/entropy.3").mkdir()
    (segment / "sealed/entropy.3.json").write_bytes(b"{}")
    assert findings(cache) == []
    assert [str(site) for site in Cache(cache.folder).sites] == ["embed", "resid.0"]


def test_a_spoilt_copy_in_a_mirror_is_fetched_again(tmp_path):
    x = np.random.default_rng(0).standard_normal((400, 16), dtype=np.float32)
    lake = Lake(f"memory://{tmp_path.name}", mirror=str(tmp_path / "mirror"))
    name = build_cache(lake, {"embed": x}, [documents(50), documents(40)], unit=64).id
    np.testing.assert_array_equal(lake.cache(name).site("embed")[:], x[: lake.cache(name).n_rows])
    copies = [path for path in (tmp_path / "mirror").rglob("*") if path.is_file() and path.stat().st_size]
    data = bytearray(copies[0].read_bytes())
    data[7] ^= 4
    copies[0].write_bytes(data)
    copies[1].write_bytes(b"")
    np.testing.assert_array_equal(lake.cache(name).site("embed")[:], x[: lake.cache(name).n_rows])


def test_a_remote_shard_that_is_lost_is_named_with_a_cure(tmp_path):
    x = np.zeros((400, 16), np.float32)
    lake = Lake(f"memory://{tmp_path.name}")
    made = build_cache(lake, {"embed": x}, [documents(90)], unit=64)
    made.folder.remove("segments/00000/sites/embed/c.3.0")
    with pytest.raises(RunError, match=r"c\.3\.0.* is lost; `garner verify` names it, `garner repair` makes it again"):
        made.site("embed")[192:256]
