"""Other systems' own trainers fed by `shuffled`, in their environments: `make interop` makes them."""

import json
import os
from pathlib import Path

import google_crc32c
import ml_dtypes
import msgspec
import pytest
import torch
from conftest import Doc, build_cache
from safetensors.torch import load_file

from benchmarks.peers.environment import DICTIONARY_LEARNING, OVERCOMPLETE, SAELENS
from jobs import sae
from jobs.sae import dictionary_learning, saelens
from jobs.sae.coder import Coder
from storage import Lake
from tests.interop.peers import ROOT, run
from tests.jobs.sae.planting import planted

READER = (msgspec, ml_dtypes, google_crc32c)
"""What `storage` needs to read a cache, beyond what every other system has installed."""


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    """A lake with a bfloat16 cache of 30,000 rows of 40 planted atoms."""
    lake = Lake(str(tmp_path_factory.mktemp("lake")))
    documents = [Doc(" ".join(["word"] * 100), {}, f"file:{number}") for number in range(300)]
    rows = planted(30_000, offset=0.0)[0].numpy()  # two of the three begin at zero, and would take long to a far mean
    build_cache(lake, {"resid.0": rows}, [documents[:200], documents[200:]], dtype="bfloat16", unit=4096)
    return lake


@pytest.fixture(scope="module")
def python_path(tmp_path_factory):
    """This checkout, and of its environment those packages alone: the rest is the other system's own."""
    folder = tmp_path_factory.mktemp("reader")
    for package in READER:
        home = Path(package.__file__).parent
        for one in (home, home.with_name(f"{home.name}.libs")):
            if one.exists():
                (folder / one.name).symlink_to(one)
    return os.pathsep.join([str(ROOT), str(folder)])


def trained(environment, lake, python_path, out):
    """Its trainer took every batch and left its coder in `out`; the held-out error fell to less than a third."""
    run(environment, "trains.py", environment.name, lake.folder.url, out, PYTHONPATH=python_path)
    answers = json.loads((out / "answers.json").read_text())
    assert answers["left"] == 0
    assert answers["after"] < min(0.3, answers["before"] / 3), answers
    return load_file(out / "found.safetensors")


def require_same(arrays, activation, found):
    coder = Coder(arrays, activation, sae.Free())
    codes = coder.encode(found["held"]).mix(torch.eye(found["codes"].shape[1])).detach()
    torch.testing.assert_close(codes, found["codes"], rtol=0, atol=1e-5 * float(found["codes"].max()))


def test_train_sae_of_dictionary_learning_is_fed_by_shuffled(lake, python_path, tmp_path):
    found = trained(DICTIONARY_LEARNING, lake, python_path, tmp_path)
    require_same(*dictionary_learning.imported(tmp_path / "trainer_0"), found)


def test_the_trainer_of_saelens_is_fed_by_shuffled(lake, python_path, tmp_path):
    found = trained(SAELENS, lake, python_path, tmp_path)
    require_same(*saelens.imported(tmp_path / "saved"), found)


def test_train_sae_of_overcomplete_is_fed_by_shuffled(lake, python_path, tmp_path):
    trained(OVERCOMPLETE, lake, python_path, tmp_path)
