"""Studies of a sweep: trained from one read of the cache, with what each would have left alone."""

import msgspec
import pytest

from jobs import sae
from jobs.sae import study
from pipeline.__main__ import main
from pipeline.sweeps import grouped
from pipeline.work import JobTask
from storage import Lake
from storage.artifact import Input
from storage.runs import Progress, tell, told
from tests.pipeline.worlds import World

SWEEP = """
[jobs.dictionary]
kind = "sae"
cache = "tiny"
site = "resid.0"
width = 12
batch = 16
epochs = 2
held_out = 0.3
activation = { kind = "topk", k = 2 }
[jobs.dictionary.sweep]
lr = [1e-3, 4e-3, 1e-2]
"""


def task(name, kind="sae", segments=1, **config):
    built = msgspec.to_builtins(sae.Config(cache="c", site="resid.0", **config), enc_hook=str) if kind == "sae" else {}
    seen = {"c": Input(cache="tiny", segments=segments, sites=("resid.0",))}
    return JobTask(
        name=name,
        kind=kind,
        config=built | ({} if kind == "sae" else {"cache": "c"}),
        inputs=seen,
        artifact=name,
        lake="l",
    )


def names(groups):
    return [[one.name for one in group.tasks] for group in groups]


def test_what_reads_the_same_batches_goes_together_and_nothing_else():
    tasks = [
        task("a", lr=1e-3),
        task("b", kind="probe"),
        task("c", lr=2e-3, width=64, activation=sae.Relu()),
        task("d", batch=17),
        task("e", seed=1),
        task("f", segments=2),
        task("g", kind="probe"),
    ]
    assert names(grouped(tasks, 8)) == [["a", "c"], ["b"], ["d"], ["e"], ["f"], ["g"]]


def test_groups_are_of_even_size():
    tasks = [task(str(n), lr=1e-3 * (n + 1)) for n in range(9)]
    assert [len(group) for group in names(grouped(tasks, 8))] == [5, 4]
    assert [len(group) for group in names(grouped(tasks, 1))] == [1] * 9


@pytest.fixture
def world(tmp_path, decoder):
    world = World(tmp_path / "world", decoder)
    recipe = world.recipe.read_text()
    world.recipe.write_text(recipe[: recipe.index("[jobs.")] + SWEEP)
    return world


def weights(lake):
    return {
        (one.record.config["lr"]): one.files["weights.safetensors"].crc32c
        for one in (Lake(str(lake)).artifact(name) for name in Lake(str(lake)).artifacts())
    }


def test_a_sweep_reads_once_and_leaves_what_each_study_leaves_alone(world, monkeypatch):
    reads = []
    real = study.split_rows
    monkeypatch.setattr(study, "split_rows", lambda *args: (reads.append(args), real(*args))[1])
    assert world.run() == 0
    assert len(reads) == 1
    assert world.run(f"lake={world.folder / 'apart'}", "pool.together=1") == 0
    assert len(reads) == 4
    together = weights(world.lake)
    assert together == weights(world.folder / "apart")
    assert len(set(together.values())) == 3
    assert main(["plan", str(world.recipe)]) == 0


def test_one_study_that_fails_does_not_keep_the_others_from_being_made(world, capsys):
    assert world.run("jobs.dictionary.sweep.lr=[1e-3, 1e30, 4e-3]", "jobs.dictionary.dictionary.kind=free") == 1
    assert sorted(weights(world.lake)) == [1e-3, 4e-3]
    assert "the loss is" in capsys.readouterr().err


def test_how_far_a_job_is_can_be_read_until_it_is_done(tmp_path):
    folder = Lake(str(tmp_path)).artifact_folder("sae-x")
    assert told(folder) is None
    said = Progress(step="training", done=3, total=9, unit="rows", tokens_per_second=2.0, seconds=1.0, note="fvu .3")
    tell(folder, said)
    assert told(folder) == said
    folder.replace("attempt-progress.json", b'{"step": "tr')
    assert told(folder) is None
