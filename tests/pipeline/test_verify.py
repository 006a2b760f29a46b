"""`garner verify` believes no byte: it names what is not as it was written, and re-runs the model if asked."""

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import write_site
from transformers import AutoModel

from pipeline.__main__ import main
from storage import Lake, Site
from storage.manifest import Claim, SourceFile
from storage.segment import Segment
from tests.pipeline import tiny

DTYPES = ("float32", "float16", "bfloat16")


@pytest.fixture
def sealed(decoder, texts, short_shards):
    """The folder of a sealed cache of one segment in `texts`/lake."""
    tiny.write_texts(texts / "docs" / "a.jsonl", tiny.TEXTS[:8])
    cache, _ = tiny.harvest(tiny.table(decoder, texts, unit=64, sites=["embed", "resid.0", "resid.1"]), texts)
    return cache.folder.local


def verify(folder, *arguments):
    return main(["verify", str(folder.parents[1]), *arguments])


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def forge(folder, site, change):
    """Replace the rows of a site by what `change` makes of them, with checksums, moments and seal to match."""
    cache = Lake(str(folder.parents[1])).cache(folder.name)
    segment, x_ND = cache.segments[0], np.array(cache.site(site)[:])
    for name in (f"sites/{site}", f"done/{site}", f"sealed/{site}.json"):
        segment.folder.remove(name)
    write_site(Segment(segment.folder, 0), Site.parse(site), change(x_ND), str(x_ND.dtype))


class TestBytes:
    def test_a_sealed_cache_passes(self, sealed, capsys):
        assert verify(sealed) == 0
        said = capsys.readouterr().out
        assert sealed.name in said
        assert all(site in said for site in ("tokens", "embed", "resid.0", "resid.1"))
        assert "BAD" not in said

    @pytest.mark.parametrize(
        ("name", "at"),
        [
            ("sites/resid.0/c.1.0", 5),
            ("sites/resid.0/c.1.0", -30),
            ("sites/resid.0/c.1.0", -1),
            ("sites/resid.1/zarr.json", 40),
            ("tokens/part-00000.parquet", 200),
        ],
        ids=["payload", "index", "checksum of the index", "metadata", "tokens"],
    )
    def test_a_flipped_bit_is_found_and_its_object_named(self, sealed, capsys, name, at):
        flip(sealed / "segments" / "00000" / name, at)
        assert verify(sealed) == 1
        assert [line for line in capsys.readouterr().out.splitlines() if f"00000/{name} " in line]

    def test_every_flipped_byte_of_a_shard_is_found(self, sealed, capsys):
        path = sealed / "segments" / "00000" / "sites" / "embed" / "c.0.0"
        whole = path.read_bytes()
        for at in range(0, len(whole), 97):
            flip(path, at)
            assert verify(sealed) == 1, at
            path.write_bytes(whole)
        assert verify(sealed) == 0

    def test_a_missing_shard_is_named(self, sealed, capsys):
        (sealed / "segments" / "00000" / "sites" / "embed" / "c.0.0").unlink()
        assert verify(sealed) == 1
        assert "sites/embed/c.0.0 is not there" in capsys.readouterr().out

    def test_a_truncated_shard_is_named_with_its_length(self, sealed, capsys):
        path = sealed / "segments" / "00000" / "sites" / "embed" / "c.2.0"
        size = path.stat().st_size
        path.write_bytes(path.read_bytes()[:-100])
        assert verify(sealed) == 1
        assert f"sites/embed/c.2.0 has {size - 100} bytes where its mark says {size}" in capsys.readouterr().out

    def test_every_damaged_object_is_named_not_only_the_first(self, sealed, capsys):
        for shard in (0, 3):
            flip(sealed / "segments" / "00000" / "sites" / "embed" / f"c.{shard}.0", 9)
        assert verify(sealed) == 1
        said = capsys.readouterr().out
        assert "embed/c.0.0 does not match" in said
        assert "embed/c.3.0 does not match" in said

    def test_one_damaged_cache_of_two_fails_the_lake_but_not_the_other_cache(self, sealed, capsys):
        other = sealed.with_name("another-0123456789ab")
        shutil.copytree(sealed, other)
        flip(other / "segments" / "00000" / "sites" / "embed" / "c.0.0", 9)
        assert verify(sealed) == 1
        assert verify(sealed, sealed.name) == 0

    def test_a_segment_that_is_only_begun_is_passed_by(self, sealed, capsys):
        segment = Lake(str(sealed.parents[1])).cache(sealed.name).next_segment()
        segment.claim(Claim(files=(SourceFile(path="new.jsonl", size=1),), parts=((0,),), unit=64, shard_bytes=2**26))
        assert verify(sealed) == 0

    def test_a_lake_without_a_cache_is_the_users_mistake(self, tmp_path, capsys):
        assert main(["verify", str(tmp_path / "nowhere")]) == 2
        assert "holds no cache; is the URL right?" in capsys.readouterr().err


class TestAgainstModel:
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_a_true_cache_passes_and_keeps_its_certificate(self, decoder, texts, short_shards, capsys, dtype):
        recipe = tiny.table(decoder, texts, unit=64, dtype=dtype)
        tiny.harvest(recipe, texts)
        tiny.write_texts(texts / "docs" / "b.jsonl", ["a second segment", "of two documents"])
        folder = tiny.harvest(recipe, texts)[0].folder.local
        assert verify(folder, "--against-model", "--sequences", "30") == 0
        assert capsys.readouterr().out.count("ok   parity") == len(tiny.SITES)
        (path,) = (folder / "certificates").iterdir()
        certificate = json.loads(path.read_bytes())
        assert [one["site"] for one in certificate["sites"]] == sorted(tiny.SITES, key=tiny.SITES.index)
        assert 10 < certificate["sequences"] <= 30
        assert all(0 <= one["relative"] <= one["tolerance"] for one in certificate["sites"])
        assert all(one["rows"] > 30 for one in certificate["sites"])

    def test_a_true_vocabulary_passes(self, tmp_path, capsys):
        folder = tiny.save_language_model(tmp_path / "model", tied=False)
        recipe = tiny.table(folder, tmp_path, sites=["embed", "unembed"])
        recipe["corpora"]["docs"] = {"vocabulary": True}
        cache, _ = tiny.harvest(recipe, tmp_path)
        assert verify(cache.folder.local, "--against-model") == 0
        assert capsys.readouterr().out.count("ok   parity") == 2

    @pytest.mark.parametrize("save", [tiny.save_encoder, tiny.save_vision])
    def test_a_true_cache_of_another_kind_of_model_passes(self, save, texts, tmp_path, capsys):
        folder = save(tmp_path / "other")
        recipe = tiny.table(folder, texts)
        if save is tiny.save_vision:
            tiny.write_pictures(tmp_path / "pictures", 5)
            recipe["corpora"]["docs"] = {"images": str(tmp_path / "pictures" / "*.png")}
        cache, _ = tiny.harvest(recipe, texts)
        assert verify(cache.folder.local, "--against-model") == 0
        assert "BAD" not in capsys.readouterr().out

    @pytest.mark.parametrize(
        "change",
        [
            lambda x_RD: x_RD + np.float32(3e-3),
            lambda x_RD: np.roll(x_RD, 1, axis=0),
            lambda x_RD: np.roll(x_RD, 1, axis=1),
            lambda x_RD: np.zeros_like(x_RD),
            lambda x_RD: np.full_like(x_RD, np.nan),
            lambda x_RD: np.full_like(x_RD, np.inf),
        ],
        ids=["shifted a little", "rows moved", "columns moved", "zeros", "nan", "infinity"],
    )
    def test_wrong_values_under_right_checksums_are_found(self, sealed, capsys, change):
        forge(sealed, "resid.0", change)
        assert verify(sealed) == 0
        assert verify(sealed, "--against-model") == 1
        said = [line for line in capsys.readouterr().out.splitlines() if "parity" in line]
        assert [("BAD" in line, "resid.0" in line) for line in said] == [(False, False), (True, True), (False, False)]
        (path,) = (sealed / "certificates").iterdir()
        assert all(isinstance(one["relative"], float) for one in json.loads(path.read_bytes())["sites"])

    def test_the_last_block_is_not_taken_for_the_final_norm(self, sealed, decoder, capsys):
        """transformers' last `hidden_states` entry is after the norm: a cache that held it would be wrong."""
        model = AutoModel.from_pretrained(decoder)
        with torch.no_grad():
            forge(sealed, "resid.1", lambda x_RD: model.ln_f(torch.from_numpy(x_RD)).numpy())
        assert verify(sealed, "--against-model") == 1

    def test_other_weights_are_refused(self, sealed, tmp_path, capsys):
        other = tiny.save_decoder(tmp_path / "retrained", seed=1)
        assert verify(sealed, "--against-model", "--model", str(other)) == 2
        said = capsys.readouterr().err
        assert "was made by weights" in said
        assert "say where the right model is with --model" in said
        assert not (sealed / "certificates").exists()

    def test_a_model_that_moved_is_found_where_one_says(self, sealed, decoder, tmp_path, capsys):
        moved = shutil.copytree(decoder, tmp_path / "moved")
        assert verify(sealed, "--against-model", "--model", str(moved)) == 0
