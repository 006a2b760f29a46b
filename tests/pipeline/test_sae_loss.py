"""Loss recovered in an `sae` step: from the cache alone and from the live model, and features taken out."""

import io
import json

import pyarrow.parquet as pq
import pytest

from storage import Lake
from tests.pipeline import tiny
from tests.pipeline.worlds import HARVEST, World

RECIPE = (
    HARVEST.replace('sites = ["embed", "resid.0"]', 'sites = ["resid.0", "resid.1", "unembed"]')
    + """
[corpora.vocabulary]
vocabulary = true
[caches.vocabulary]
model = "tiny"
corpus = "vocabulary"
sites = ["unembed"]
dtype = "float32"
[jobs.dictionary]
kind = "sae"
cache = "tiny"
site = "resid.1"
width = 16
epochs = 20
held_out = 0.4
activation = { kind = "topk", k = 4 }
unembed = "vocabulary"
"""
)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loss")
    world = World(folder, tiny.save_language_model(folder / "saved", tied=False))
    world.recipe.write_text(RECIPE)
    assert world.run('jobs.dictionary.sweep.loss=["cache", "model", "none"]') == 0
    return world


def artifacts(world):
    lake = Lake(str(world.lake))
    found = [lake.artifact(name) for name in lake.artifacts()]
    return {one.record.config["loss"]: one for one in found}


def metrics(artifact):
    return {one["name"]: one for one in artifact.record.report["metrics"]}


def test_the_cache_and_the_live_model_give_the_same_loss(world):
    found = artifacts(world)
    one, other = metrics(found["cache"]), metrics(found["model"])
    for name in ("loss_recovered", "loss_recovered_of_mean", "loss_original", "loss_rebuilt"):
        assert one[name]["value"] == pytest.approx(other[name]["value"], rel=1e-3)
    assert one["loss_rebuilt"]["null"] == pytest.approx(other["loss_rebuilt"]["null"], rel=1e-4)
    assert "loss_recovered" not in metrics(found["none"])
    assert "logit_peak" in metrics(found["none"])


def test_features_are_taken_out_of_the_live_model_alone(world):
    found = artifacts(world)
    assert "ablation.parquet" not in found["cache"].files
    lines = pq.read_table(io.BytesIO(found["model"].read("ablation.parquet"))).to_pylist()
    assert 0 < len(lines) <= 16
    assert all(line["fires"] > 0 and line["harm"] != 0 for line in lines)
    assert metrics(found["model"])["ablation_harm"]["null"] is not None


def test_an_earlier_site_wants_the_live_model(world, capsys):
    assert world.run("jobs.dictionary.site=resid.0", "jobs.dictionary.loss=cache") == 2
    assert "resid.0" in capsys.readouterr().err
    assert world.run("jobs.dictionary.site=resid.0", "jobs.dictionary.loss=model") == 0


def test_contradictions_are_refused_when_the_recipe_is_read(world, capsys):
    assert world.run("jobs.dictionary.loss=cache", "jobs.dictionary.unembed=''") == 2
    assert "unembed" in capsys.readouterr().err
    assert world.run("jobs.dictionary.loss=model", f"jobs.dictionary.beside={json.dumps([])}") == 0
