"""`garner pin`, `retention`, `rm` and `gc`, as people type them."""

import time

import pytest

from pipeline.__main__ import main
from storage import Cache, Lake
from storage.lease import take
from tests.pipeline.worlds import World
from tests.storage.test_sweep import artifact_of, cache_of


@pytest.fixture
def lake(tmp_path):
    return Lake(str(tmp_path / "lake"))


@pytest.fixture
def said(lake, capsys):
    """Exit code and what was printed."""

    def say(command, *words):
        code = main([command, str(lake.folder), *words])
        told = capsys.readouterr()
        return code, told.out + told.err

    return say


def test_rm_refuses_what_others_stand_on_and_lists_them(lake, said):
    cache = cache_of(lake)
    artifact = artifact_of(lake, "sae-000000000001", cache)
    artifact_of(lake, "sae-000000000002", previous=artifact)
    code, told = said("rm", cache.id)
    assert code == 2
    assert f"artifacts/{artifact} was made from it" in told
    code, told = said("rm", cache.id, artifact)
    assert code == 2
    assert "artifacts/sae-000000000002 went on from it" in told
    assert lake.caches() == (cache.id,)
    assert said("rm", cache.id, artifact, "sae-000000000002")[0] == 0
    assert (lake.caches(), lake.artifacts()) == ((), ())


def test_rm_refuses_what_a_run_uses(lake, said):
    cache = cache_of(lake)
    with take(lake.folder, "run.x", uses=(f"caches/{cache.id}",), beat=0.05):
        code, told = said("rm", cache.id)
    assert code == 2
    assert "run.x of" in told
    assert "uses it now" in told


def test_rm_is_undone_and_an_artifact_only_after_what_it_was_made_from(lake, said):
    cache = cache_of(lake)
    artifact = artifact_of(lake, "sae-000000000001", cache)
    assert said("rm", cache.id, artifact)[0] == 0
    code, told = said("rm", artifact, "--undo")
    assert code == 2
    assert f"was made from {cache.id}, which is gone or marked" in told
    assert said("rm", artifact, cache.id, "--undo")[0] == 0
    assert (lake.caches(), lake.artifacts()) == ((cache.id,), (artifact,))
    code, told = said("rm", cache.id, "--undo")
    assert code == 2
    assert "is not marked" in told


def test_gc_says_the_same_dry_and_in_earnest_and_how_much_it_freed(lake, said):
    cache = cache_of(lake)
    said("rm", cache.id)
    size = sum(one.size for one in cache.folder.tree())
    code, dry = said("gc", "--dry-run", "--grace", "1s")
    assert code == 0
    assert "0 objects" not in dry
    time.sleep(1.1)
    _, dry = said("gc", "--dry-run", "--grace", "1s")
    assert cache.folder.exists("cache.json")
    _, done = said("gc", "--grace", "1s")
    assert f"would be removed caches/{cache.id}" in dry
    assert f"removed          caches/{cache.id}" in done
    assert f"freed {size / 2**20:,.1f} MiB" in done
    assert not (lake.folder.local / "caches" / cache.id).exists()


def test_a_pin_keeps_and_is_taken_back_by_its_owner(lake, said, monkeypatch):
    cache = cache_of(lake)
    assert said("pin", cache.id, "--why", "figure 3")[0] == 0
    assert "it is pinned by" in said("rm", cache.id)[1]
    with monkeypatch.context() as patch:
        patch.setattr("storage.pins.owner", lambda: "ada@elsewhere")
        code, told = said("pin", cache.id, "--undo")
        assert code == 2
        assert "is not pinned by ada@elsewhere; it is by" in told
    assert said("pin", cache.id, "--undo")[0] == 0
    assert said("rm", cache.id)[0] == 0


def test_retention_says_what_it_means(lake, said):
    cache = cache_of(lake, segments=2)
    assert "segments kept for 30d" in said("retention", cache.id, "30d")[1]
    assert "folders of runs kept for 2w" in said("retention", "runs", "2w")[1]
    assert "kept for ever" in said("retention", cache.id, "none")[1]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("rm", "nothing"), "has no cache 'nothing'"),
        (("pin", "nothing"), "has no cache 'nothing'"),
        (("pin", "tiny.words", "--undo"), "is not pinned by"),
        (("retention", "tiny.words", "30 days"), "'30 days' is no span of time"),
        (("retention", "tiny.words", "0d"), "'0d' is no span of time"),
        (("gc", "--grace", "0d"), "'0d' is no span of time"),
    ],
)
def test_wrong_words_are_refused_and_change_nothing(lake, said, words, complaint):
    cache = cache_of(lake)
    before = {one.path for one in lake.folder.tree()}
    code, told = said(*words)
    assert code == 2
    assert complaint in told
    assert {one.path for one in lake.folder.tree()} == before
    assert len(Cache(cache.folder).segments) == 1


@pytest.mark.parametrize("found", ["nothing", "photos"])
def test_gc_of_no_lake_says_so(lake, said, found):
    if found == "photos":
        (lake.folder.local / "photos").mkdir(parents=True)
    code, told = said("gc")
    assert code == 2
    assert f"is no lake: it holds {found} and none of artifacts, caches" in told
    assert "is the URL right?" in told


def test_what_was_marked_since_it_was_looked_up_is_not_pinned(lake, said, monkeypatch):
    cache = cache_of(lake)
    said("rm", cache.id)
    monkeypatch.setattr("pipeline.keeping.locate", lambda lake, name: f"caches/{name}")
    code, told = said("pin", cache.id)
    assert code == 2
    assert "has just been marked for removal" in told
    assert lake.folder.names("pins") == ()


def test_what_was_removed_and_is_asked_for_again_is_there_again(tmp_path, decoder, capsys):
    world = World(tmp_path / "world", decoder)
    assert world.run() == 0
    shared = Lake(str(world.lake))
    (name,), (cache,) = shared.artifacts(), shared.caches()
    assert main(["rm", str(world.lake), name]) == 0
    assert world.run() == 0
    assert shared.artifacts() == (name,)
    assert main(["rm", str(world.lake), name, cache]) == 0
    time.sleep(1.1)
    assert main(["gc", str(world.lake), "--grace", "1s"]) == 0
    assert (shared.artifacts(), shared.caches()) == ((), ())
    assert world.run() == 0
    assert (shared.artifacts(), shared.caches()) == ((name,), (cache,))
    capsys.readouterr()
    assert world.run() == 0
    assert "nothing was missing" in capsys.readouterr().out
