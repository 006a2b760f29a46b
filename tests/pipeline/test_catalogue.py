"""`garner ls` finds by what, where, whose, when and how large, in few requests; `garner show` says lineage."""

import itertools
import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from pipeline import sizes
from pipeline.__main__ import main
from pipeline.catalogue import Wanted, entries, listing
from pipeline.shown import shown
from storage import InputError, Lake, Site, remote
from storage.artifact import ArtifactWriter, Input, Record
from storage.cache import Cache, create
from storage.manifest import make_record
from storage.url import Folder
from tests.pipeline import tiny

_numbers = itertools.count()


@pytest.fixture(scope="module")
def origin(tmp_path_factory, decoder):
    """A lake with one cache of two segments, two sites and several shards."""
    base = tmp_path_factory.mktemp("catalogue")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("storage.layout.SHARD_BYTES", 16 * tiny.WIDTH * 4)
        patch.setattr("storage.layout.CHUNK_BYTES", 4 * tiny.WIDTH * 4)
        for name in ("a", "b"):
            tiny.write_texts(base / "docs" / f"{name}.jsonl", tiny.TEXTS)
            tiny.harvest(tiny.table(decoder, base, unit=256, sites=["embed", "resid.0"]), base)
    return base / "lake"


@pytest.fixture
def lake(origin, tmp_path):
    """A copy of it that the test may change."""
    shutil.copytree(origin, tmp_path / "lake")
    return Lake(str(tmp_path / "lake"))


def ago(**time):
    return (datetime.now(UTC) - timedelta(**time)).isoformat(timespec="seconds")


def add_cache(lake, own, corpus, **made):
    """A cache of which nothing is harvested yet; its name."""
    what = Cache(lake.folder / "caches" / lake.caches()[0]).record.identity
    identity = msgspec.structs.replace(
        what,
        model=msgspec.structs.replace(what.model, name=own),
        corpus={"files": f"s3://texts/{corpus}/*.txt"},
    )
    record = make_record(f"{own}.{corpus}", identity, made)
    return create(lake.folder / "caches" / record.folder, record).id


def add_artifact(lake, name, cache, size=100, previous="", first=0, **made):
    """A small finished artifact over segments [first, 2) of a cache; its name."""
    writer = ArtifactWriter(lake.artifact_folder(name))
    writer.write("weights.bin", bytes(size))
    record = Record(
        kind=name.rpartition("-")[0], id=name.rpartition("-")[2], config={}, versions={}, seconds=1.0,
        inputs={"c": Input(cache=cache, first=first, segments=2, sites=("embed",))}, files=writer.files,
        report={"headline": f"what {name} found", "metrics": []}, previous=previous, made=made,
    )  # fmt: skip
    writer.close(record)
    return name


@pytest.fixture
def full(lake):
    """The names of a lake's caches and artifacts, by what they are to the tests."""
    (own,) = lake.caches()
    return lake, {
        "own": own,
        "old": add_cache(lake, "gpt2", "wiki", model="org/gpt2", owner="ada@lab", time=ago(days=40)),
        "new": add_cache(lake, "llama-3.1", "news", model="meta/llama-3.1", owner="bob@lab", time=ago(hours=5)),
        "nobody": add_cache(lake, "gpt2-xl", "wiki"),
        "sae": add_artifact(lake, "sae-000000000001", own, size=5000, owner="ada@lab", time=ago(days=3)),
        "probe": add_artifact(lake, "probe-000000000002", own, owner="bob@desk", time=ago(days=31)),
    }


FOUND = [
    ({}, {"own", "old", "new", "nobody", "sae", "probe"}),
    ({"model": "gpt2"}, {"old"}),
    ({"model": "gpt2*"}, {"old", "nobody"}),
    ({"model": "meta/*"}, {"new"}),
    ({"model": "decoder"}, {"own", "sae", "probe"}),
    ({"corpus": "wiki"}, {"old", "nobody"}),
    ({"corpus": "s3://texts/n*"}, {"new"}),
    ({"site": Site("embed")}, {"own", "sae", "probe"}),
    ({"site": Site("resid", 0)}, {"own"}),
    ({"owner": "ada"}, {"old", "sae"}),
    ({"owner": "bob@lab"}, {"new"}),
    ({"owner": "bo"}, set()),
    ({"older": 30 * 86400.0}, {"old", "probe"}),
    ({"newer": 4 * 86400.0, "kind": "sae"}, {"sae"}),
    ({"newer": 6 * 3600.0}, {"own", "new"}),
    ({"older": 86400.0, "newer": 32 * 86400.0}, {"sae", "probe"}),
    ({"larger": 5000}, {"own", "sae"}),
    ({"larger": 5001}, {"own"}),
    ({"smaller": 100}, {"old", "new", "nobody", "probe"}),
    ({"kind": "cache"}, {"own", "old", "new", "nobody"}),
    ({"kind": "s*"}, {"sae"}),
    ({"kind": "cache", "owner": "ada", "model": "*pt*"}, {"old"}),
]


@pytest.mark.parametrize(("wanted", "found"), FOUND)
def test_a_search_finds_exactly_what_matches_all_that_is_asked(full, wanted, found):
    lake, names = full
    said = [one.name for one in entries(lake, Wanted(**wanted))]
    assert said == [name for name in (*lake.caches(), *lake.artifacts()) if name in said]
    assert set(said) == {names[one] for one in found}


def test_sizes_are_those_of_the_objects(lake):
    (one,) = entries(lake, Wanted(kind="cache"))
    folder = lake.folder.local / "caches" / one.name
    objects = [*folder.rglob("c.*.0"), *folder.rglob("*.parquet")]
    assert one.bytes == sum(path.stat().st_size for path in objects)
    assert len(objects) > 20


def test_json_has_an_object_a_line_with_every_fact(full):
    lake, names = full
    lines = [json.loads(line) for line in listing(lake.folder.url, Wanted(), as_json=True)]
    assert {line["name"] for line in lines} == set(names.values())
    (own,) = (line for line in lines if line["name"] == names["own"])
    assert (own["rows"], own["sites"], own["segments"]) == (lake.cache(own["name"]).n_rows, ["embed", "resid.0"], 2)
    (sae,) = (line for line in lines if line["name"] == names["sae"])
    assert sae["headline"] == "what sae-000000000001 found"
    assert "decoder" in sae["models"]


def test_lines_say_size_age_and_owner_and_a_dash_where_a_record_lacks_them(full):
    lake, names = full
    lines = {line.split()[1]: line.split() for line in listing(lake.folder.url, Wanted())}
    assert lines[names["old"]][2:] == ["0", "B", "40d", "ada@lab", "nothing", "sealed", "yet", "float32"]
    assert lines[names["nobody"]][2:6] == ["0", "B", "-", "-"]
    assert lines[names["sae"]][2:6] == ["4.88", "KiB", "3d", "ada@lab"]


@pytest.mark.parametrize("record", ["cache.json", "segments/00000/plan.json", "segments/00001/sealed/embed.json"])
def test_a_damaged_one_is_named_and_hides_no_other(full, record):
    lake, names = full
    path = Path(lake.folder.url) / "caches" / names["own"] / record
    path.write_bytes(path.read_bytes().replace(b'"', b"'", 1))
    if record.startswith("segments/00001"):  # the seal of the first segment tells the size of the site in the second
        assert len(list(entries(lake, Wanted()))) == len(names)
        return
    said = {one.name: one.problem for one in entries(lake, Wanted(kind="cache"))}
    assert set(said) == set(lake.caches())
    assert "is damaged" in said.pop(names["own"])
    assert not any(said.values())


def test_a_damaged_artifact_is_named_and_hides_no_other(full):
    lake, names = full
    path = Path(lake.folder.url) / "artifacts" / names["sae"] / "record.json"
    path.write_bytes(path.read_bytes()[:-9])
    said = {one.name: one.problem for one in entries(lake, Wanted(kind="[sp]*"))}
    assert "is damaged" in said[names["sae"]]
    assert said[names["probe"]] == ""


def test_what_is_marked_for_removal_is_not_listed(full):
    lake, names = full
    (lake.folder / "caches" / names["old"]).create("removed.json", b"")
    (lake.folder / "artifacts" / names["sae"]).create("removed.json", b"")
    assert {one.name for one in entries(lake, Wanted())} == set(names.values()) - {names["old"], names["sae"]}


def test_an_empty_lake_is_refused(tmp_path):
    with pytest.raises(InputError, match="is the URL right"):
        list(listing(str(tmp_path), Wanted()))


def test_a_listing_takes_as_many_requests_as_it_says(full, monkeypatch):
    lake, _ = full
    url = f"memory://listed-{next(_numbers)}"
    for path in Path(lake.folder.url).rglob("*"):
        if path.is_file():
            Folder.at(url).create(path.relative_to(lake.folder.url).as_posix(), path.read_bytes())
    asked, ask = [], remote.ask
    monkeypatch.setattr(remote, "ask", lambda what, request: asked.append(what) or ask(what, request))
    assert len(list(entries(Lake(url), Wanted()))) == 6
    segments, sites, caches, artifacts = 2, 2, 4, 2
    assert len(asked) == 2 + 3 * caches + 3 * segments + sites + 2 * artifacts
    asked.clear()
    assert len(list(entries(Lake(url), Wanted(model="gpt2")))) == 1
    assert len(asked) == 2 + 3 + 2 * (caches - 1) + 2 * artifacts  # the segments of others are not looked at


# --- lineage


@pytest.fixture
def chain(lake):
    """Two artifacts of one cache, of which one went on from the other, and a third of another window."""
    (own,) = lake.caches()
    add_artifact(lake, "sae-00000000000a", own)
    add_artifact(lake, "sae-00000000000b", own, previous="sae-00000000000a")
    add_artifact(lake, "probe-00000000000c", own, first=1)
    return lake


def facts(lake, name):
    (line,) = shown(lake.folder.url, name, as_json=True)
    return json.loads(line)


def test_a_cache_says_what_it_came_from_and_all_that_stands_on_it(chain):
    (own,) = chain.caches()
    told = facts(chain, own)
    model, corpus = told["origins"]
    assert (model["kind"], model["name"]) == ("model", "decoder")
    assert [[file["name"].rpartition("/")[2] for file in segment["nodes"]] for segment in corpus["nodes"]] == [
        ["a.jsonl"],
        ["b.jsonl"],
    ]
    probe, sae = told["stands_on_it"]
    assert (probe["name"], probe["what"]) == ("probe-00000000000c", "read segments 1 to 1; embed")
    assert [one["name"] for one in sae["nodes"]] == ["sae-00000000000b"]
    assert told["sites"]["embed"] == {"rows": chain.cache(own).n_rows, "d": tiny.WIDTH, "dtype": "float32"}


def test_an_artifact_says_its_caches_and_the_artifact_it_went_on_from(chain):
    cache, before = facts(chain, "sae-00000000000b")["origins"]
    assert (cache["name"], cache["what"]) == (chain.caches()[0], "segments 0 to 1; embed")
    assert (before["name"], before["what"]) == ("sae-00000000000a", "went on from")
    assert before["nodes"][0]["name"] == chain.caches()[0]
    assert [one["name"] for one in facts(chain, "sae-00000000000a")["stands_on_it"]] == ["sae-00000000000b"]


def test_an_artifact_names_only_the_files_of_the_segments_it_read(chain):
    (cache,) = facts(chain, "probe-00000000000c")["origins"]
    _, corpus = cache["nodes"]
    assert [segment["name"] for segment in corpus["nodes"]] == ["1"]


def test_an_artifact_whose_cache_is_gone_says_so(chain):
    shutil.rmtree(chain.folder.local / "caches")
    told = "\n".join(shown(chain.folder.url, "sae-00000000000a"))
    assert "gone" in told
    assert "is not a cache" in told


def test_the_tree_names_a_few_files_and_counts_the_rest(origin, tmp_path, decoder):
    for n in range(8):
        tiny.write_texts(tmp_path / "docs" / f"{n}.jsonl", tiny.TEXTS[:3])
    cache, _ = tiny.harvest(tiny.table(decoder, tmp_path, sites=["embed"]), tmp_path)
    told = "\n".join(shown(str(tmp_path / "lake"), cache.id))
    assert told.count("file file://") == 3
    assert "and 5 more files" in told
    assert "nothing stands on it" in told


def test_the_commands_take_the_searches_as_people_write_them(full, capsys):
    lake, names = full
    assert main(["ls", lake.folder.url, "--older", "30d", "--kind", "cache"]) == 0
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == [names["old"]]
    assert main(["ls", lake.folder.url, "--larger", "4.5KiB", "--site", "embed", "--json"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert main(["show", lake.folder.url, names["own"], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == names["own"]
    for wrong in ("--older=soon", "--newer=-3d", "--larger=10", "--smaller=-1GiB", "--site=nowhere"):
        assert main(["ls", lake.folder.url, wrong]) == 2
        assert wrong.partition("=")[2] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "size"), [("300B", 300), ("1KB", 1000), ("1KiB", 1024), ("1.5MiB", 3 * 2**19), ("2 TB", 2 * 10**12)]
)
def test_sizes_are_read_as_people_write_them(text, size):
    assert sizes.parse(text) == size


@pytest.mark.parametrize(
    "text", ["", "10", "GiB", "1e3B", "-1GiB", "1gib", "nanB", "1 GiB more", "9" * 400 + "TiB", "\u0661KB"]
)
def test_what_is_no_size_is_refused(text):
    with pytest.raises(InputError, match="write a number and its unit"):
        sizes.parse(text)
