"""`garner repair` makes again exactly what is damaged, and the cache is as it was."""

import itertools
import json
import shutil

import numpy as np
import pytest

from pipeline.__main__ import main
from storage import Lake
from storage.url import Folder
from tests.pipeline import tiny
from tests.pipeline.test_resume import objects

SEGMENT = "segments/00000"


@pytest.fixture
def cache(decoder, texts, short_shards):
    """A sealed cache of several units and shards, and the bytes of all its objects."""
    tiny.write_texts(texts / "docs" / "a.jsonl", tiny.TEXTS[:8])
    made, _ = tiny.harvest(tiny.table(decoder, texts, unit=64, sites=["embed", "resid.0", "resid.1"]), texts)
    folder = made.folder.local
    return folder, objects(folder)


def flip(path, at=9):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def command(name, folder, *arguments):
    return main([name, str(folder.parents[1]), *arguments])


def stamps(folder):
    return {path: (path.stat().st_ino, path.stat().st_ctime_ns) for path in folder.rglob("*") if path.is_file()}


def touched(folder, act):
    """The objects that `act` made anew or removed, by their names in the segment."""
    before = stamps(folder)
    act()
    after = stamps(folder)
    changed = {path for path in before | after if before.get(path) != after.get(path)}
    return {path.relative_to(folder / SEGMENT).as_posix() for path in changed}


def test_damaged_shards_are_harvested_again_and_no_other(cache, capsys):
    folder, whole = cache
    flip(folder / SEGMENT / "sites/resid.0/c.1.0")
    (folder / SEGMENT / "sites/embed/c.2.0").unlink()
    assert command("verify", folder) == 1
    changed = touched(folder, lambda: command("repair", folder))
    assert {name for name in changed if name.startswith("sites")} == {"sites/resid.0/c.1.0", "sites/embed/c.2.0"}
    assert command("verify", folder) == 0
    assert objects(folder) == whole
    assert "resid.0: 1 shards to harvest again (c.1.0)" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name",
    ["done/embed/00000.json", "sealed/embed.json", "sites/embed/zarr.json", "sites/zarr.json"],
)
def test_a_damaged_record_is_made_again_without_a_forward_pass(cache, name, caplog):
    folder, whole = cache
    flip(folder / SEGMENT / name, 30)
    changed = touched(folder, lambda: command("repair", folder))
    assert {one for one in changed if one.startswith("sites/") and "/c." in one} <= set(
        ["sites/embed/c.0.0"] if name.startswith("done") else []
    )
    assert command("verify", folder) == 0
    assert objects(folder) == whole


def test_a_shard_that_nothing_vouches_for_is_not_trusted(cache):
    folder, whole = cache
    flip(folder / SEGMENT / "sites/embed/c.0.0")
    flip(folder / SEGMENT / "done/embed/00000.json", 20)
    flip(folder / SEGMENT / "sealed/embed.json", 20)
    assert command("repair", folder) == 0
    assert command("verify", folder) == 0
    assert objects(folder) == whole


@pytest.mark.parametrize("name", ["tokens/part-00000.parquet", "plan.json", "files.json"])
def test_what_a_cache_is_made_from_cannot_be_made_again(cache, name, capsys):
    folder, _ = cache
    flip(folder / SEGMENT / name, 40)
    flip(folder / SEGMENT / "sites/embed/c.0.0")
    before = objects(folder)
    assert command("repair", folder) == 1
    assert f"{name}: cannot be made again from what is left" in capsys.readouterr().err
    assert objects(folder) == before


def test_a_damaged_cache_json_is_named(cache, capsys):
    folder, _ = cache
    flip(folder / "cache.json", 40)
    assert command("verify", folder) == 1
    assert "cache.json is damaged" in capsys.readouterr().out


def test_other_weights_are_refused_before_anything_is_removed(cache, tmp_path, capsys):
    folder, _ = cache
    flip(folder / SEGMENT / "sites/embed/c.0.0")
    before = objects(folder)
    other = tiny.save_decoder(tmp_path / "retrained", seed=1)
    assert command("repair", folder, "--model", str(other)) == 2
    assert "say where the right model is with --model" in capsys.readouterr().err
    assert objects(folder) == before


def test_a_changed_configuration_is_refused_for_it_gives_other_numbers(cache, decoder, tmp_path, capsys):
    folder, _ = cache
    flip(folder / SEGMENT / "sites/embed/c.0.0")
    changed = shutil.copytree(decoder, tmp_path / "changed")
    config = json.loads((changed / "config.json").read_text())
    (changed / "config.json").write_text(json.dumps(config | {"activation_function": "relu"}))
    assert command("repair", folder, "--model", str(changed)) == 2
    assert "was made by configuration" in capsys.readouterr().err


@pytest.mark.parametrize("fatal", [0, 1, 2])
def test_a_repair_killed_after_any_removal_is_finished_by_the_next_run(cache, texts, decoder, monkeypatch, fatal):
    """The order of removal is the safety: wherever it was killed, nothing damaged is sealed."""
    folder, whole = cache
    flip(folder / SEGMENT / "sites/embed/c.0.0")
    left, true_remove = itertools.count(), Folder.remove

    def remove(self, name):
        if next(left) == fatal:
            raise KeyboardInterrupt
        true_remove(self, name)

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "remove", remove)
        assert command("repair", folder) == 130
    table = tiny.table(decoder, texts, unit=64, sites=["embed", "resid.0", "resid.1"])
    recipe = tiny.write_recipe(table, texts)
    assert main(["run", recipe]) in (0, 1)  # 1: a marked shard was taken away, and its mark not yet
    assert command("repair", folder) == 0
    assert main(["run", recipe]) == 0
    assert command("verify", folder) == 0
    assert objects(folder) == whole


def test_a_repaired_row_is_the_models_own(cache, decoder):
    folder, _ = cache
    before = np.array(Lake(str(folder.parents[1])).cache(folder.name).site("resid.1")[:])
    for shard in (folder / SEGMENT / "sites/resid.1").glob("c.*"):
        flip(shard)
    assert command("repair", folder) == 0
    after = Lake(str(folder.parents[1])).cache(folder.name).site("resid.1")[:]
    np.testing.assert_array_equal(after, before)
