"""Coders that others read and write with their own code, in environments of their own: `make interop` makes them."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.peers.environment import DICTIONARY_LEARNING, SAELENS
from jobs import sae
from jobs.sae import dictionary_learning, saelens
from jobs.sae.candidates import KMeans
from jobs.sae.coder import Coder
from jobs.sae.jump import L0Target
from storage import InputError
from tests.jobs.sae.planting import TOPK, config, fit, planted

HERE = Path(__file__).parent
PEERS = HERE.parents[1] / "build" / "peers"
EXPORTED = {
    "topk": (TOPK, sae.UnitNorm()),
    "tied": (TOPK, sae.UnitNorm()),
    "archetypal": (TOPK, sae.Archetypal(candidates=KMeans(n=60), delta=0.2)),
    "batch_topk": (sae.BatchTopK(k=3), sae.UnitNorm()),
    "relu": (sae.Relu(l1=0.2), sae.Free()),
    "p_anneal": (sae.PAnneal(l1=0.2), sae.UnitNorm()),
    "jump_relu": (sae.JumpRelu(sparsity=L0Target(l0=3)), sae.UnitNorm()),
    "gated": (sae.Gated(l1=0.8), sae.UnitNorm()),
}
NORMALISED = dict(zip(EXPORTED, ["isotropic", "centre", "standardise", "none"] * 2, strict=True))


def python_of(environment):
    home = PEERS / environment.name
    if not (home / "installed").exists():
        pytest.skip(f"{environment.title} has no environment here: `make interop` makes it")
    return home / "bin" / "python"


@pytest.fixture(scope="module")
def coders():
    rows = planted(4000, width=20, d=16)[0] * torch.linspace(0.5, 2, 16)
    found = {}
    for name, (activation, dictionary) in EXPORTED.items():
        chosen = config(
            width=32,
            activation=activation,
            dictionary=dictionary,
            normalise=NORMALISED[name],
            encoder="tied" if name == "tied" else "linear",
            batch=256,
            epochs=3,
        )
        found[name] = fit(rows, chosen, held=500)[0]
    return rows[-500:], found


def write(folder, files):
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)


def dense(codes, width):
    return codes.mix(torch.eye(width)).detach()


def run(*words):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_saelens_loads_what_was_exported_and_encodes_alike(coders, tmp_path):
    rows, some = coders
    python = python_of(SAELENS)
    save_file({"rows": rows}, tmp_path / "rows.safetensors")
    for name, coder in some.items():
        write(tmp_path / name, saelens.exported(coder, {"hook_name": "blocks.0.hook_resid_post"}))
    run(
        python,
        HERE / "saelens_reads.py",
        tmp_path / "rows.safetensors",
        tmp_path / "out",
        *(tmp_path / n for n in some),
    )
    found = load_file(tmp_path / "out")
    for name, coder in some.items():
        codes = coder.encode(rows)
        wanted = dense(codes, 32)
        scale = float(wanted.abs().max())
        assert scale > 0
        torch.testing.assert_close(found[f"{name}.codes"], wanted, atol=1e-4 * scale, rtol=1e-4)
        rebuilt = coder.decode(codes).detach()
        torch.testing.assert_close(found[f"{name}.rebuilt"], rebuilt, atol=1e-4 * float(rebuilt.abs().max()), rtol=1e-4)


@pytest.mark.parametrize("name", EXPORTED)
def test_what_was_exported_comes_back_as_the_same_coder(coders, tmp_path, name):
    rows, some = coders
    write(tmp_path / name, saelens.exported(some[name]))
    arrays, activation = saelens.imported(tmp_path / name)
    again = Coder(arrays, activation, sae.Free())
    wanted, found = dense(some[name].encode(rows), 32), dense(again.encode(rows), 32)
    torch.testing.assert_close(found, wanted, atol=1e-4 * float(wanted.abs().max()), rtol=1e-4)
    torch.testing.assert_close(
        again.decode(again.encode(rows)), some[name].decode(some[name].encode(rows)), atol=1e-3, rtol=1e-3
    )


def test_what_saelens_cannot_hold_is_refused(coders):
    _, some = coders
    pursuit = Coder(some["topk"].arrays(), sae.MatchingPursuit(k=3), sae.UnitNorm())
    with pytest.raises(InputError, match="MatchingPursuit"):
        saelens.exported(pursuit)
    crosscoder = Coder({**some["topk"].arrays(), "blocks": np.array([10, 6])}, TOPK, sae.UnitNorm())
    with pytest.raises(InputError, match="crosscoders"):
        saelens.exported(crosscoder)


def test_dictionaries_of_dictionary_learning_encode_alike(coders, tmp_path):
    rows = coders[0] - coders[0].mean(0)
    python = python_of(DICTIONARY_LEARNING)
    save_file({"rows": rows}, tmp_path / "rows.safetensors")
    run(python, HERE / "dictionary_learning_writes.py", tmp_path / "rows.safetensors", tmp_path / "out")
    found = load_file(tmp_path / "out" / "found.safetensors")
    names = [folder.name for folder in (tmp_path / "out").iterdir() if folder.is_dir()]
    assert len(names) == 6
    for name in names:
        coder = Coder(*dictionary_learning.imported(tmp_path / "out" / name), sae.Free())
        codes = coder.encode(rows)
        wanted = found[f"{name}.codes"]
        assert 0 < float((wanted != 0).float().mean()) < 0.9
        torch.testing.assert_close(
            dense(codes, 24), wanted, atol=1e-4, rtol=1e-4, msg=lambda said, name=name: f"{name}: {said}"
        )
        torch.testing.assert_close(coder.decode(codes).detach(), found[f"{name}.rebuilt"], atol=1e-3, rtol=1e-4)


def test_a_pickle_that_runs_code_is_not_read(tmp_path):
    import pickle

    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    (tmp_path / "config.json").write_text('{"trainer": {"dict_class": "AutoEncoder"}}')
    (tmp_path / "ae.pt").write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(InputError, match="runs code"):
        dictionary_learning.imported(tmp_path)
    assert not (tmp_path / "ran").exists()
