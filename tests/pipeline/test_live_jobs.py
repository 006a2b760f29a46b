"""A job that asks for the model of a cache gets it, and it alone; asking changes no address."""

import shutil

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

import jobs
from jobs import sae
from pipeline.plan import JobStep
from pipeline.progress import Progress
from pipeline.recipe import read
from pipeline.run import run, survey
from storage import InputError, Lake, RunError
from storage.sequences import Sequences
from tests.pipeline import tiny
from tests.pipeline.worlds import HARVEST, RECIPE, World

LOSSY = '''"""Means the loss of the first sequence, asked of the model that made the cache."""

from jobs.core.context import Metric, Read, Report
from storage.sequences import Sequences
from storage.value import Value


class Config(Value):
    cache: str
    named: str = ""
    asked: str = ""


def reads(config):
    return (Read(cache=config.cache),)


def models(config):
    return (config.named,) if config.named else ()


def run(config, ctx):
    segment = ctx.cache(config.cache).segments[0]
    sequence = next(Sequences(segment).touching(0, 1))
    model = ctx.model(config.asked)
    assert model is ctx.model(config.asked)
    loss = model.loss([sequence.input_ids])[:-1].mean()
    return Report(headline="a loss", metrics=(Metric(name="loss", value=float(loss)),))
'''
TABLE = '[jobs.lossy]\nkind = "lossy"\ncache = "tiny"\nnamed = "tiny"\nasked = "tiny"\n'


@pytest.fixture
def world(tmp_path, monkeypatch):
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "lossy.py").write_text(LOSSY)
    monkeypatch.setattr(jobs, "__path__", [*jobs.__path__, str(tmp_path / "studies")])
    world = World(tmp_path, tiny.save_language_model(tmp_path / "saved", tied=True))
    world.recipe.write_text(HARVEST + TABLE)
    return world


def step(world, *settings):
    (found,) = (one for one in survey(read(str(world.recipe), settings))[1] if isinstance(one, JobStep))
    return found


def made(world, *settings):
    opened = read(str(world.recipe), settings)
    run(opened, Progress(live=False))
    return Lake(opened.lake).artifact(step(world, *settings).artifact).record


def test_the_model_of_a_cache_is_loaded_once_and_runs(world):
    (metric,) = made(world).report["metrics"]
    (cache,) = Lake(str(world.lake)).caches()
    first = next(Sequences(Lake(str(world.lake)).cache(cache).segments[0]).touching(0, 1))
    ids_1T = torch.from_numpy(first.input_ids.astype("int64"))[None]
    with torch.no_grad():
        logits_TV = AutoModelForCausalLM.from_pretrained(world.folder / "model")(input_ids=ids_1T).logits[0]
    assert metric["value"] == pytest.approx(float(cross_entropy(logits_TV[:-1], ids_1T[0, 1:])), abs=1e-5)


def test_a_model_that_the_job_did_not_name_is_refused(world):
    with pytest.raises(RunError, match=r"the job asks for the model of cache 'tiny': name the cache in the job's `mod"):
        run(read(str(world.recipe), ["jobs.lossy.named="]), Progress(live=False))


def test_a_name_that_is_no_cache_of_the_jobs_is_refused_in_the_plan(world):
    with pytest.raises(InputError, match=r"jobs.lossy wants the model that made cache 'small', and reads .*tiny: name"):
        survey(read(str(world.recipe), ["jobs.lossy.named=small"]))


def test_asking_for_a_model_changes_no_address(world, monkeypatch):
    world.recipe.write_text(RECIPE)
    before = step(world)
    monkeypatch.setattr(sae, "models", lambda config: (config.cache,), raising=False)
    after = step(world)
    assert (before.artifact, before.models) == (after.artifact, {})
    assert after.models == {"tiny": str(world.folder / "model")}


def test_another_model_where_the_caches_was_is_refused_when_it_is_asked_for(world):
    """A cache that only the lake knows says where its model was read."""
    world.recipe.write_text(HARVEST)
    run(read(str(world.recipe)), Progress(live=False))
    (cache,) = Lake(str(world.lake)).caches()
    world.recipe.write_text('lake = "lake"\n' + TABLE.replace('"tiny"', f'"{cache}"') + '[pool]\nkind = "local"\n')
    assert step(world).models == {cache: str(world.folder / "model")}
    shutil.rmtree(world.folder / "model")
    with pytest.raises(InputError, match=r"no model at .* there is no such folder"):
        run(read(str(world.recipe)), Progress(live=False))
    tiny.save_language_model(world.folder / "model", tied=False)
    with pytest.raises(InputError, match="is not the 'model' that made the cache: the SHA-256 of its weights begins"):
        run(read(str(world.recipe)), Progress(live=False))
    shutil.rmtree(world.folder / "model")
    tiny.save_language_model(world.folder / "model", tied=True)
    assert made(world).report["headline"] == "a loss"
