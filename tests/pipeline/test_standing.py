"""Jobs that stand on what other jobs leave: their order, their addresses, and what keeps what from being removed."""

import pytest

import jobs
from pipeline.__main__ import main
from pipeline.copying import copied
from pipeline.keeping import marked, unmarked
from pipeline.order import waves
from pipeline.plan import JobStep
from pipeline.progress import Progress
from pipeline.recipe import read
from pipeline.run import run, survey
from storage import InputError, Lake, RunError
from tests.pipeline import tiny
from tests.pipeline.worlds import HARVEST, World

SUM = '''"""Its own number and what the jobs that it stands on left."""

import numpy as np
from safetensors.numpy import load

from jobs.core.context import Metric, Read, Report
from storage.errors import InputError
from storage.value import Value


class Config(Value):
    cache: str
    number: int = 0
    on: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()


def reads(config):
    return (Read(cache=config.cache),)


def artifacts(config):
    return config.on


def run(config, ctx):
    if config.number < 0:
        raise InputError("a number below 0")
    total = config.number
    for name in config.asked or config.on:
        total += int(load(ctx.artifact(name).read("sum.safetensors"))["sum"])
    ctx.save("sum", {"sum": np.array(total)})
    return Report(headline=f"a sum of {total}", metrics=(Metric(name="sum", value=float(total)),))
'''
TABLES = """
[jobs.top]
kind = "sum"
cache = "tiny"
number = 100
on = ["left", "right"]
[jobs.left]
kind = "sum"
cache = "tiny"
number = 10
on = ["ground"]
[jobs.right]
kind = "sum"
cache = "tiny"
number = 20
on = ["ground"]
[jobs.ground]
kind = "sum"
cache = "tiny"
number = 1
"""


@pytest.fixture
def world(tmp_path, monkeypatch):
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "sum.py").write_text(SUM)
    monkeypatch.setattr(jobs, "__path__", [*jobs.__path__, str(tmp_path / "studies")])
    world = World(tmp_path, tiny.save_decoder(tmp_path / "saved"))
    world.recipe.write_text(HARVEST + TABLES)
    return world


def steps(world, *settings):
    found = survey(read(str(world.recipe), settings))[1]
    return {step.name: step for step in found if isinstance(step, JobStep)}


def ran(world, *settings):
    return run(read(str(world.recipe), settings), Progress(live=False))


def record(world, name, *settings):
    return Lake(str(world.lake)).artifact(steps(world, *settings)[name].artifact).record


def test_waves_keep_the_order_given_and_what_each_needs_behind_it():
    assert waves({"a": ["c"], "b": [], "c": ["b"], "d": ["elsewhere"]}) == (("b", "d"), ("c",), ("a",))
    with pytest.raises(InputError, match=r"jobs stand on each other in a circle: .* <- "):
        waves({"a": ["b"], "b": ["a"]})


def test_jobs_run_behind_those_that_they_stand_on_whatever_their_order_in_the_recipe(world):
    outcome = ran(world)
    names = [receipt.name for receipt in outcome.jobs]
    assert (names[0], set(names[1:3]), names[3]) == ("ground", {"left", "right"}, "top")
    assert record(world, "top").report["metrics"][0]["value"] == 100 + (10 + 1) + (20 + 1)
    assert record(world, "top").artifacts == {name: steps(world)[name].artifact for name in ("left", "right")}
    assert all(step.done for step in steps(world).values())


def test_an_address_holds_what_a_job_stands_on_and_not_what_the_recipe_calls_it(world):
    before = steps(world)
    changed = steps(world, "jobs.ground.number=2")
    assert all(before[name].artifact != changed[name].artifact for name in before)
    world.recipe.write_text(world.recipe.read_text().replace("ground", "soil"))
    assert steps(world)["top"].artifact == before["top"].artifact


def test_a_job_may_stand_on_an_artifact_that_only_the_lake_knows(world):
    ran(world)
    left = steps(world)["left"].artifact
    alone = HARVEST + f'\n[jobs.top]\nkind = "sum"\ncache = "tiny"\nnumber = 5\non = ["{left}"]\n'
    world.recipe.write_text(alone)
    ran(world)
    assert record(world, "top").report["metrics"][0]["value"] == 16


def test_what_is_no_job_and_no_artifact_is_refused_in_the_plan(world):
    with pytest.raises(InputError, match=r"jobs.left stands on 'grund', which is no job .*ground"):
        steps(world, 'jobs.left.on=["grund"]')


def test_an_artifact_that_the_job_did_not_name_is_refused(world):
    with pytest.raises(RunError, match=r"asks for what job 'ground' left: name it in the job's `artifacts"):
        ran(world, 'jobs.top.asked=["ground"]')


def test_a_job_that_fails_takes_those_that_stand_on_it_along_and_no_others(world):
    with pytest.raises(InputError, match=r"(?s)'left' failed: a number below 0.*'top' failed: it stands on job 'left'"):
        ran(world, "jobs.left.number=-1")
    done = {name for name, step in steps(world, "jobs.left.number=-1").items() if step.done}
    assert done == {"ground", "right"}


def test_what_a_kept_artifact_stands_on_is_not_removed(world):
    ran(world)
    lake, found = Lake(str(world.lake)), steps(world)
    with pytest.raises(InputError, match=rf"artifacts/{found['top'].artifact} was made from it"):
        list(marked(lake, [found["left"].artifact], ""))
    list(marked(lake, [found["top"].artifact], ""))
    list(marked(lake, [found["left"].artifact], ""))
    with pytest.raises(InputError, match=rf"was made from {found['left'].artifact}, which is gone or marked"):
        list(unmarked(lake, [found["top"].artifact]))


def test_lineage_and_copies_follow_what_an_artifact_stands_on(world, tmp_path, capsys):
    ran(world)
    found = steps(world)
    assert main(["show", str(world.lake), found["top"].artifact]) == 0
    said = capsys.readouterr().out
    assert f"from     {found['left'].artifact}, called left" in said
    assert said.count(f"sum {found['ground'].artifact}: as ground") == 2
    assert main(["show", str(world.lake), found["ground"].artifact]) == 0
    assert f"sum {found['right'].artifact}: has it as ground" in capsys.readouterr().out
    list(copied(str(world.lake), found["left"].artifact, str(tmp_path / "other"), Progress(live=False), True))
    assert set(Lake(str(tmp_path / "other")).artifacts()) == {found["left"].artifact, found["ground"].artifact}
