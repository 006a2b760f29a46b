"""Every activation and every dictionary: recovery of a planted dictionary, reload, and what each promises."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.numpy import save

from jobs import sae
from jobs.sae.candidates import KMeans
from jobs.sae.jump import L0Target
from storage import Lake
from storage.artifact import ArtifactWriter, Record
from storage.value import canonical
from tests.jobs.sae.planting import TOPK, config, fit, planted, recovery, untrained

ACTIVATIONS = {
    "topk": TOPK,
    "batch_topk": sae.BatchTopK(k=3),
    "relu": sae.Relu(l1=0.2),
    "p_anneal": sae.PAnneal(l1=0.1),
    "jump_relu": sae.JumpRelu(sparsity=L0Target(l0=3)),
    "gated": sae.Gated(l1=0.8),
    "matching_pursuit": sae.MatchingPursuit(k=4),
    "orthogonal_pursuit": sae.OrthogonalPursuit(k=4),
}
TIED = {"matching_pursuit", "orthogonal_pursuit"}
CASES = [
    *[(name, sae.UnitNorm()) for name in ACTIVATIONS],
    ("topk", sae.Free()),
    ("relu", sae.Free()),
    ("topk", sae.Archetypal(candidates=KMeans(n=400), delta=0.5)),
]


@pytest.fixture(scope="module")
def material():
    return planted()


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}-{type(case[1]).__name__}")
def trained(request, material):
    name, dictionary = request.param
    rows, atoms = material
    chosen = config(
        activation=ACTIVATIONS[name],
        dictionary=dictionary,
        encoder="tied" if name in TIED else "linear",
        normalise="isotropic" if dictionary.biased else "centre",
        batch=512,
        epochs=12,
        aux=sae.AuxK(dead_after=20_000),
    )
    coder, history = fit(rows, chosen)
    return chosen, coder, history, rows, atoms


def test_a_planted_dictionary_is_recovered(trained):
    chosen, coder, history, rows, atoms = trained
    found = recovery(coder, atoms)
    assert found >= 0.9
    assert recovery(untrained(rows, chosen), atoms) < found - 0.1
    assert history[-1].held_out_fvu < 0.15


SCRIPT = """
import hashlib, sys
import torch
from jobs import sae
from storage import Lake
lake, x = Lake(sys.argv[1]), torch.load(sys.argv[2], weights_only=True)
for name in lake.artifacts():
    coder = sae.load(lake.artifact(name))
    codes = coder.encode(x)
    parts = [*codes.active(), coder.decode(codes)]
    print(name, hashlib.sha256(b"".join(part.detach().numpy().tobytes() for part in parts)).hexdigest())
"""


def digest(coder, x):
    codes = coder.encode(x)
    parts = [*codes.active(), coder.decode(codes)]
    return hashlib.sha256(b"".join(part.detach().numpy().tobytes() for part in parts)).hexdigest()


def test_every_kind_of_artifact_encodes_bit_for_bit_in_a_fresh_process(material, tmp_path):
    rows, lake = material[0][:3000], Lake(str(tmp_path / "lake"))
    torch.save(rows[:300], tmp_path / "rows.pt")
    wanted = {}
    for number, (kind, dictionary) in enumerate(CASES):
        chosen = config(
            activation=ACTIVATIONS[kind],
            dictionary=dictionary,
            encoder="tied" if kind in TIED else "linear",
            batch=256,
            epochs=1,
        )
        coder, _ = fit(rows, chosen, held=200)
        name = f"sae-{number:012d}"
        writer = ArtifactWriter(lake.artifact_folder(name))
        writer.write("weights.safetensors", save(coder.arrays()))
        record = Record(
            kind="sae",
            id=name[4:],
            config=json.loads(canonical(chosen)),
            inputs={},
            report={},
            files=writer.files,
            versions={},
            seconds=0.0,
        )
        writer.close(record)
        wanted[name] = digest(coder, rows[:300])
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "lake"), str(tmp_path / "rows.pt")]
    done = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=True)
    assert dict(line.split() for line in done.stdout.splitlines()) == wanted
