"""A training that is killed goes on at the very next batch, and ends with the same weights."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import Doc, build_cache
from safetensors.numpy import load, save

from jobs import sae
from jobs.core.context import Context
from jobs.sae import resume
from jobs.sae.candidates import KMeans
from storage import Lake, checkpoint
from storage.artifact import ArtifactWriter
from storage.checkpoint import Checkpoints
from tests.jobs.sae.planting import config, planted

ROOT = Path(__file__).parents[3]
CHOSEN = [
    config(width=48, batch=64, epochs=3, twins=1),
    config(width=48, batch=64, epochs=3, activation=sae.BatchTopK(k=3)),
    config(
        width=48, batch=64, epochs=3, dictionary=sae.Archetypal(candidates=KMeans(n=60), delta=0.1), normalise="centre"
    ),
]


class KilledError(Exception):
    """The process ends here."""


def make(lake):
    rows, _ = planted(2400)
    return build_cache(lake, {"resid.0": rows.numpy()}, [[Doc(" ".join(["w"] * 12), key=str(n)) for n in range(200)]])


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    monkeypatch.setattr(sae.study, "leave", lambda *_: None)
    monkeypatch.setattr(sae.study, "report", lambda *_: None)  # drawing takes longer than all the rest


@pytest.fixture
def cache(lake):
    return make(lake)


def run(lake, cache, name, chosen=CHOSEN):
    contexts = [
        Context({"c": cache}, ArtifactWriter(lake.artifact_folder(f"{name}-{n}")), "cpu") for n in range(len(chosen))
    ]
    sae.run_all(chosen, contexts)
    for ctx in contexts:  # as whoever runs a job does once its record is there
        ctx.checkpoints.keep_only([])
    return [{file.name: file for file in ctx._artifact.files} for ctx in contexts]


def crcs(files):
    return [{name: file.crc32c for name, file in one.items()} for one in files]


@pytest.mark.parametrize("batches", [1, 33, 34, 90, 130])
def test_whatever_the_batch_it_dies_at_the_end_is_the_same(lake, cache, monkeypatch, batches):
    wanted = crcs(run(lake, cache, "whole"))
    monkeypatch.setattr(resume, "EVERY", 0.0)
    real, left = resume.Resume.after, iter(range(batches))

    def after(self, trainings):
        real(self, trainings)
        if next(left, None) is None:
            raise KilledError

    monkeypatch.setattr(resume.Resume, "after", after)
    with pytest.raises(KilledError):
        run(lake, cache, "killed")
    monkeypatch.setattr(resume.Resume, "after", real)
    steps = []
    step = sae.study.Training.step
    monkeypatch.setattr(sae.study.Training, "step", lambda self, batch: (steps.append(self.steps), step(self, batch)))
    assert crcs(run(lake, cache, "killed")) == wanted
    laps = [min(batches + 1, 99), max(batches + 1 - 99, 0)]  # batches of each that were done
    assert len(steps) == 3 * (99 - laps[0]) + 99 - laps[1]


def test_studies_of_one_read_leave_what_each_would_leave_alone(lake, cache):
    assert crcs(run(lake, cache, "together")) == [
        crcs(run(lake, cache, f"alone{n}", [one]))[0] for n, one in enumerate(CHOSEN)
    ]
    assert len({sae.together(one) for one in CHOSEN}) == 1
    assert sae.together(config(batch=32)) != sae.together(CHOSEN[0]) != sae.together(config(batch=64, epochs=3, seed=1))


def test_a_damaged_checkpoint_is_passed_over_and_one_that_a_study_lacks_too(lake, cache, monkeypatch, caplog):
    wanted = crcs(run(lake, cache, "whole"))
    monkeypatch.setattr(resume, "EVERY", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "keep_only", lambda self, numbers: None)
        run(lake, cache, "again")
    folders = [lake.artifact_folder(f"again-{n}") for n in range(3)]
    *_, name = folders[1].names("attempt-checkpoint")
    data = folders[1].read(f"attempt-checkpoint/{name}")
    folders[1].remove(f"attempt-checkpoint/{name}")
    folders[1].create(f"attempt-checkpoint/{name}", data[:-1] + b"?")
    assert crcs(run(lake, cache, "again")) == wanted
    assert "damaged and passed over" in caplog.text


def test_only_the_latest_checkpoint_stays(lake):
    store = Checkpoints(lake.artifact_folder("sae-x"))
    for number in (3, 20, 100):
        store.write(number, b"state %d" % number)
    assert store.numbers() == (100, 20, 3)
    assert store.read(20) == b"state 20"
    assert store.read(4) is None
    store.keep_only([100])
    assert store.numbers() == (100,)


def test_a_checkpoint_larger_than_an_object_is_kept_in_parts_and_wants_all_of_them(lake, monkeypatch):
    monkeypatch.setattr(checkpoint, "PART", 4)
    folder = lake.artifact_folder("sae-x")
    store = Checkpoints(folder)
    store.write(5, b"0123456789")
    names = folder.names("attempt-checkpoint")
    assert len(names) == 3
    assert store.read(5) == b"0123456789"
    folder.remove(f"attempt-checkpoint/{sorted(names)[1]}")
    assert store.numbers() == (5,)
    assert store.read(5) is None
    store.write(5, b"another one")
    assert store.read(5) == b"another one"


@pytest.mark.parametrize("name", ["version", "position"])
def test_a_checkpoint_of_another_version_or_of_another_group_is_passed_over(lake, cache, monkeypatch, name):
    wanted = crcs(run(lake, cache, "whole"))
    monkeypatch.setattr(resume, "EVERY", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "keep_only", lambda self, numbers: None)
        run(lake, cache, "again")
    store = Checkpoints(lake.artifact_folder("again-1"))
    latest = store.numbers()[0]
    arrays = load(store.read(latest))
    store.keep_only([])
    store.write(latest, save({**arrays, name: arrays[name] + 1}))
    assert crcs(run(lake, cache, "again")) == wanted


SCRIPT = """
import sys
from storage import Lake
from jobs import sae
from jobs.sae import resume
from tests.jobs.sae.test_sae_resume import make, run
resume.EVERY = 0.0
sae.study.leave = sae.study.report = lambda *_: None
lake = Lake(sys.argv[1])
run(lake, lake.cache(lake.caches()[0]), "killed")
"""


def test_a_process_that_is_killed_leaves_a_checkpoint_that_another_goes_on_from(tmp_path):
    lake = Lake(str(tmp_path / "lake"))
    cache = make(lake)
    wanted = crcs(run(lake, cache, "whole"))
    script = [sys.executable, "-c", SCRIPT, str(tmp_path / "lake")]
    process = subprocess.Popen(script, cwd=ROOT, env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"})
    store = Checkpoints(lake.artifact_folder("killed-2"))
    while max(store.numbers(), default=0) < 1000:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert store.numbers()
    assert crcs(run(lake, cache, "killed")) == wanted
