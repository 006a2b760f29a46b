"""The plan follows from the recipe and the facts alone, and what it calls the same is the same."""

import shutil
import sys

import msgspec
import pytest
import torch

from pipeline.describe import describe
from pipeline.facts import SegmentState
from pipeline.plan import CacheStep, JobStep, plan, studies
from pipeline.recipe import read
from pipeline.run import survey
from storage import InputError
from storage.manifest import SourceFile
from tests.pipeline.tiny import save_decoder, write_lines
from tests.pipeline.worlds import RECIPE, World


@pytest.fixture
def world(tmp_path, decoder):
    return World(tmp_path, decoder)


def looked_at(world, *settings):
    opened = read(str(world.recipe), settings)
    return opened, studies(opened), survey(opened)[0]


def addresses(world, *settings):
    """(the cache's folder, the artifact's) that a recipe asks for."""
    steps = survey(read(str(world.recipe), settings))[1]
    (cache,) = (step.facts.folder for step in steps if isinstance(step, CacheStep))
    (artifact,) = (step.artifact for step in steps if isinstance(step, JobStep))
    return cache, artifact


def test_the_same_facts_give_the_same_steps_and_the_world_is_left_alone(world):
    opened, work, facts = looked_at(world)
    touched, watching = [], True
    sys.addaudithook(
        lambda event, args: (
            touched.append(event) if watching and event in ("open", "os.listdir", "os.scandir") else None
        )
    )
    first = plan(opened, work, facts)
    watching = False
    assert touched == []
    assert plan(opened, work, facts) == first
    assert [step.name for step in first] == ["tiny", "dictionary"]
    assert not world.lake.exists()


def test_a_step_is_done_when_everything_of_it_is_there(world):
    opened, work, facts = looked_at(world)
    tiny = facts.caches["tiny"]
    assert [step.done for step in plan(opened, work, facts)] == [False, False]

    def steps(*segments, new_files=(), artifacts=()):
        changed = msgspec.structs.replace(tiny, segments=segments, n_claimed=len(segments), new_files=new_files)
        return plan(
            opened, work, msgspec.structs.replace(facts, caches={"tiny": changed}, artifacts=frozenset(artifacts))
        )

    whole = SegmentState(
        number=0, files=1, rows=1000, rows_per_unit=128, units=8, done={}, sealed=("embed", "resid.0"),
            part=1, shard_bytes=2**26, compress="none",
    )  # fmt: skip
    half = msgspec.structs.replace(whole, number=1, done={"embed": 8, "resid.0": 3}, sealed=("embed",))
    unread = msgspec.structs.replace(whole, number=1, rows=None, units=0, sealed=())
    cache, job = steps(whole)
    assert (cache.done, job.done, job.inputs["tiny"].segments) == (True, False, 1)
    assert steps(whole, artifacts=[job.artifact])[1].done
    cache, later = steps(whole, half)
    assert (cache.done, later.inputs["tiny"].segments) == (False, 2)
    assert cache.lacking == {"embed": 0, "resid.0": 5}
    assert "resid.0 lacks 5 units" in describe(cache)[2]
    assert later.artifact != job.artifact
    assert not steps(whole, unread)[0].done
    cache, later = steps(whole, new_files=(SourceFile(path="file:///b.jsonl", size=4000),))
    assert (cache.done, cache.estimate, later.inputs["tiny"].segments) == (False, 1000, 2)
    assert "1 new files, about 1,000 rows" in describe(cache)[2]


ALIASES = RECIPE.replace("tiny", "other").replace("words", "texts").replace("jobs.dictionary", "jobs.atoms")


@pytest.mark.parametrize(
    "setting",
    [
        "lake=elsewhere",
        "pool.batch_tokens=64",
        "pool.workers=3",
        "pool.kind=ray",
        "pool.gpus=1",
        "caches.tiny.unit=256",
        "caches.tiny.nonfinite=true",
        'caches.tiny.sites=["resid.0", "embed"]',
        'caches.tiny.sites=["embed", "resid.0", "attn.1"]',
        "jobs.dictionary.seed=0",
    ],
)
def test_where_and_how_fast_it_runs_changes_no_address(setting, world):
    assert addresses(world, setting) == addresses(world)


def test_names_in_the_recipe_change_no_address(world):
    before = addresses(world)
    world.recipe.write_text(ALIASES)
    assert addresses(world) == before


def test_who_has_the_model_elsewhere_reaches_the_same_address(world):
    before = addresses(world)
    (world.folder / "models").mkdir()
    shutil.move(world.folder / "model", world.folder / "models" / "model")
    assert addresses(world, "models.tiny.name=models/model") == before


@pytest.mark.parametrize(
    "setting",
    [
        "caches.tiny.dtype=bfloat16",
        "caches.tiny.context=8",
        'caches.tiny.tokenise={kind="packed"}',
        "caches.tiny.tokenise={special=false}",
        "models.tiny.dtype=bfloat16",
        "corpora.words.files=corpus/a.*",
        "corpora.words.text=title",
        "corpora.words.labels=[]",
    ],
)
def test_what_changes_the_numbers_changes_both_addresses(setting, world):
    write_lines(world.folder / "corpus" / "a.jsonl", [{"text": "a", "title": "b", "long": True}])
    (cache, artifact), (other_cache, other_artifact) = addresses(world), addresses(world, setting)
    assert cache.rpartition("-")[2] != other_cache.rpartition("-")[2]
    assert artifact != other_artifact


def test_other_weights_or_another_tokenizer_change_both_addresses(world, tmp_path):
    seen = {addresses(world)}
    shutil.rmtree(world.folder / "model")
    save_decoder(world.folder / "model", seed=1)
    seen.add(addresses(world))
    path = world.folder / "model" / "tokenizer_config.json"
    path.write_text(path.read_text() + "\n")
    seen.add(addresses(world))
    assert len({cache for cache, _ in seen}) == len({artifact for _, artifact in seen}) == 3


def test_another_configuration_is_another_artifact_of_the_same_cache(world):
    cache, artifact = addresses(world)
    for setting in ("jobs.dictionary.width=32", "jobs.dictionary.seed=1", 'jobs.dictionary.site="embed"'):
        other_cache, other_artifact = addresses(world, setting)
        assert other_cache == cache
        assert other_artifact != artifact


def test_another_document_file_leaves_the_cache_its_address(world):
    before = addresses(world)[0]
    write_lines(world.folder / "corpus" / "b.jsonl", [{"text": "one more", "long": False}])
    assert addresses(world)[0] == before


def test_a_sweep_is_an_artifact_each(world):
    steps = survey(read(str(world.recipe), ["jobs.dictionary.sweep.seed=[0, 1]"]))[1]
    jobs = [step for step in steps if isinstance(step, JobStep)]
    assert [job.name for job in jobs] == ["dictionary[seed=0]", "dictionary[seed=1]"]
    assert len({job.artifact for job in jobs}) == 2
    assert jobs[0].artifact == addresses(world)[1]  # seed = 0 is the default


def test_a_site_that_the_cache_lacks_is_refused_in_the_plan(world):
    opened, work, facts = looked_at(world)
    fewer = msgspec.structs.replace(facts.caches["tiny"], widths={"embed": 32})
    with pytest.raises(InputError, match=r"cache 'tiny' holds sites embed; job 'dictionary' asks for resid\.0: add it"):
        plan(opened, work, msgspec.structs.replace(facts, caches={"tiny": fewer}))


def test_planning_reads_no_weight(world, monkeypatch):
    monkeypatch.setattr("workers.model.load", lambda spec: pytest.fail("a model was loaded"))
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: pytest.fail("weights were read"))
    assert len(addresses(world)) == 2


def test_the_contents_of_a_foreign_coder_are_part_of_the_address(world, tmp_path):
    folder = tmp_path / "coder"
    settings = (f"jobs.dictionary.foreign={folder}", "jobs.dictionary.dictionary={kind='free'}")
    with pytest.raises(InputError, match="no coder that can be read"):
        addresses(world, *settings)
    folder.mkdir()
    (folder / "cfg.json").write_text("{}")
    (folder / "sae_weights.safetensors").write_bytes(b"one")
    (_, one), (_, plain) = addresses(world, *settings), addresses(world)
    assert addresses(world, *settings)[1] == one != plain
    (folder / "sae_weights.safetensors").write_bytes(b"two")
    assert addresses(world, *settings)[1] != one
