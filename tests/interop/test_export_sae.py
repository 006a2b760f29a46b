"""`garner export-sae`: the folder says which model and where, and holds the artifact's coder."""

import json

import pytest
import torch

from jobs import sae
from jobs.sae import saelens
from jobs.sae.coder import Coder
from pipeline.__main__ import main
from pipeline.coders import hook_name
from storage import Lake, Site
from tests.pipeline import tiny
from tests.pipeline.worlds import RECIPE, World

TRANSCODER = """
[jobs.across]
kind = "sae"
cache = "tiny"
site = "embed"
target = { site = "resid.0" }
width = 16
epochs = 1
activation = { kind = "batch_topk", k = 2 }
[jobs.shape]
kind = "geometry"
cache = "tiny"
site = "embed"
n_points = 40
skip = 0
k = 4
dimension = { k = 10, allow_saturated = true }
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    world = World(folder, tiny.save_language_model(folder / "saved", tied=False))
    world.recipe.write_text(RECIPE + TRANSCODER)
    assert world.run() == 0
    return world


def artifact(world, kind, **fields):
    lake = Lake(str(world.lake))
    for one in map(lake.artifact, lake.artifacts()):
        config = one.record.config
        if one.record.kind == kind and all(config[name] == value for name, value in fields.items()):
            return one
    raise AssertionError(f"no {kind} with {fields}")


def export(world, one, folder):
    return main(["export-sae", str(world.lake), one.folder.name, str(folder)])


def test_the_folder_holds_the_coder_and_says_where_it_belongs(world, tmp_path):
    one = artifact(world, "sae", site="resid.0")
    assert export(world, one, tmp_path / "out") == 0
    about = json.loads((tmp_path / "out" / "cfg.json").read_text())["metadata"]
    assert (about["model_name"], about["hook_name"]) == ("model", "blocks.0.hook_resid_post")
    assert about["garner"]["artifact"] == one.folder.name
    rows = torch.from_numpy(Lake(str(world.lake)).cache(about["garner"]["cache"]).site("resid.0")[:50].copy())
    coder, again = sae.load(one), Coder(*saelens.imported(tmp_path / "out"), sae.Free())
    wanted, found = (one.encode(rows).mix(torch.eye(16)).detach() for one in (coder, again))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5 * float(wanted.max()))


def test_a_transcoder_says_where_it_writes(world, tmp_path):
    assert export(world, artifact(world, "sae", site="embed"), tmp_path / "out") == 0
    found = json.loads((tmp_path / "out" / "cfg.json").read_text())
    assert found["architecture"] == "jumprelu_transcoder"
    assert found["metadata"]["hook_name"] == "blocks.0.hook_resid_pre"
    assert found["metadata"]["hook_name_out"] == "blocks.0.hook_resid_post"


def test_what_is_no_coder_and_what_is_no_empty_folder_is_refused(world, tmp_path, capsys):
    assert export(world, artifact(world, "geometry"), tmp_path / "out") == 2
    assert "of the job geometry" in capsys.readouterr().err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    assert export(world, artifact(world, "sae", site="resid.0"), tmp_path / "full") == 2
    assert "not empty" in capsys.readouterr().err


@pytest.mark.parametrize("site", ["embed", "resid.3", "attn.2", "mlp.1"])
def test_a_hook_name_is_the_site_again(site):
    assert Site.parse(hook_name(Site.parse(site))) == Site.parse(site)
