"""Coders that others read and write with their own code, in environments of their own: `make interop` makes them."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from benchmarks.peers.environment import DICTIONARY_LEARNING, SAELENS
from jobs import sae
from jobs.sae import dictionary_learning, saelens
from jobs.sae.candidates import KMeans
from jobs.sae.coder import Coder
from jobs.sae.jump import L0Target
from jobs.sae.start import start
from storage import InputError
from storage.moments import measure
from tests.interop.peers import run
from tests.jobs.sae.planting import TOPK, config, fit, planted, randn

WIDTH = 32
EXPORTED = {
    "topk": {"activation": TOPK},
    "tied": {"activation": TOPK, "encoder": "tied"},
    "archetypal": {"activation": TOPK, "dictionary": sae.Archetypal(candidates=KMeans(n=60), delta=0.2)},
    "batch_topk": {"activation": sae.BatchTopK(k=3)},
    "matryoshka": {"activation": sae.BatchTopK(k=3), "prefixes": (8, 16)},
    "relu": {"activation": sae.Relu(l1=0.2), "dictionary": sae.Free()},
    "p_anneal": {"activation": sae.PAnneal(l1=0.2)},
    "jump_relu": {"activation": sae.JumpRelu(sparsity=L0Target(l0=3))},
    "gated": {"activation": sae.Gated(l1=0.8)},
}
NORMALISED = ("isotropic", "centre", "standardise", "none")
TRANSCODERS = {
    "transcoder": (sae.Relu(), False),
    "skip_transcoder": (sae.Relu(), True),
    "jumprelu_transcoder": (sae.BatchTopK(k=3), False),
    "jumprelu_skip_transcoder": (sae.JumpRelu(), True),
}
KINDS = ("Standard", "TopK", "BatchTopK", "MatryoshkaBatchTopK", "JumpReLU", "Gated")


@pytest.fixture(scope="module")
def coders():
    rows = planted(4000, width=20, d=16)[0] * torch.linspace(0.5, 2, 16)
    found = {}
    for number, (name, fields) in enumerate(EXPORTED.items()):
        chosen = config(**fields, width=WIDTH, normalise=NORMALISED[number % 4], batch=256, epochs=3)
        found[name] = fit(rows, chosen, held=500)[0]
    return rows[-500:], found


@pytest.fixture(scope="module")
def transcoders(coders):
    """Untrained, with biases, thresholds and skips that are not zero; targets of another width."""
    rows = coders[0]
    targets = measure((rows @ randn(16, 12) + 5).numpy())
    found, random = {}, np.random.default_rng(0)
    for name, (activation, skip) in TRANSCODERS.items():
        chosen = config(width=WIDTH, activation=activation, target=sae.Source(site="resid.1"), skip=skip)
        first = start(chosen, [measure(rows.numpy())], [targets])
        arrays = first.arrays()
        for key, array in arrays.items():
            noise = 0.1 * random.standard_normal(array.shape)
            arrays[key] = array + (noise if key[:2] in ("W_", "b_") else np.abs(noise))
        found[name] = Coder(arrays, activation, chosen.dictionary)
    return found


def write(folder, files):
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)


def dense(codes, width=WIDTH):
    return codes.mix(torch.eye(width)).detach()


def require_alike(found, wanted, share):
    """No entry differs by more than that share of the largest."""
    wanted = wanted.detach()
    assert float(wanted.abs().max()) > 0
    torch.testing.assert_close(found.detach(), wanted, rtol=0, atol=share * float(wanted.abs().max()))


def test_saelens_loads_what_was_exported_and_encodes_alike(coders, transcoders, tmp_path):
    rows, some = coders[0], coders[1] | transcoders
    save_file({"rows": rows}, tmp_path / "rows.safetensors")
    for name, coder in some.items():
        write(tmp_path / name, saelens.exported(coder, {"hook_name": "blocks.0.hook_resid_post"}))
    run(SAELENS, "saelens_reads.py", tmp_path / "rows.safetensors", tmp_path / "out", *(tmp_path / n for n in some))
    found = load_file(tmp_path / "out")
    for name, coder in some.items():
        codes = coder.encode(rows)
        assert 0 < float((dense(codes) > 0).float().mean()) < 0.9, name
        require_alike(found[f"{name}.codes"], dense(codes), 1e-5)
        require_alike(found[f"{name}.rebuilt"], coder.decode(codes, rows), 1e-5)
    with safe_open(tmp_path / "out", "pt") as file:
        about = json.loads(file.metadata()["about"])
    assert about == {name: {"hook_name": "blocks.0.hook_resid_post"} for name in some}


@pytest.mark.parametrize("name", EXPORTED)
def test_what_was_exported_comes_back_as_the_same_coder(coders, tmp_path, name):
    rows, some = coders
    write(tmp_path / name, saelens.exported(some[name]))
    again = Coder(*saelens.imported(tmp_path / name), sae.Free())
    require_alike(dense(again.encode(rows)), dense(some[name].encode(rows)), 1e-5)
    require_alike(again.decode(again.encode(rows)), some[name].decode(some[name].encode(rows)), 1e-5)


def test_what_saelens_cannot_hold_is_refused(coders, transcoders):
    _, some = coders
    pursuit = Coder(some["topk"].arrays(), sae.MatchingPursuit(k=3), sae.UnitNorm())
    with pytest.raises(InputError, match="no coder with the codes of MatchingPursuit"):
        saelens.exported(pursuit)
    crosscoder = Coder({**some["topk"].arrays(), "blocks": np.array([10, 6])}, TOPK, sae.UnitNorm())
    with pytest.raises(InputError, match="crosscoders"):
        saelens.exported(crosscoder)
    with pytest.raises(InputError, match="no transcoder with the codes of TopK"):
        saelens.exported(Coder(transcoders["transcoder"].arrays(), TOPK, sae.UnitNorm()))


def test_coders_that_saelens_saved_encode_alike(coders, tmp_path):
    rows = coders[0] - coders[0].mean(0)
    save_file({"rows": rows}, tmp_path / "rows.safetensors")
    run(SAELENS, "saelens_writes.py", tmp_path / "rows.safetensors", tmp_path / "out")
    found = load_file(tmp_path / "out" / "found.safetensors")
    for name in (f"{kind}.{dtype}" for kind in KINDS for dtype in ("float32", "bfloat16")):
        coder = Coder(*saelens.imported(tmp_path / "out" / name), sae.Free())
        codes = coder.encode(rows)
        assert 0 < float((found[f"{name}.codes"] > 0).float().mean()) < 0.9, name
        require_alike(dense(codes, 24), found[f"{name}.codes"], 1e-5)
        require_alike(coder.decode(codes), found[f"{name}.rebuilt"], 1e-5)


def test_folders_of_before_saelens_6_are_read(coders, tmp_path):
    """They say nothing of the standard architecture, and name TopK as an activation function."""
    for name, said in {
        "relu": {"activation_fn_str": "relu"},
        "topk": {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": TOPK.k}},
    }.items():
        files = saelens.exported(coders[1][name])
        old = {"d_in": 16, "d_sae": WIDTH, "dtype": "torch.float32", "normalize_activations": False, **said}
        write(tmp_path / name, files | {saelens.CONFIG: json.dumps(old).encode()})
        again = Coder(*saelens.imported(tmp_path / name), sae.Free())
        require_alike(dense(again.encode(coders[0])), dense(coders[1][name].encode(coders[0])), 1e-5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"normalize_activations": "layer_norm"}, "layer_norm"),
        ({"architecture": "temporal"}, "temporal"),
        ({"architecture": "gated"}, "b_gate"),
        ({"architecture": "topk"}, "k"),
    ],
)
def test_what_cannot_be_read_is_refused(coders, tmp_path, change, said):
    files = saelens.exported(coders[1]["relu"])
    changed = json.dumps(json.loads(files[saelens.CONFIG]) | change).encode()
    write(tmp_path / "coder", files | {saelens.CONFIG: changed})
    with pytest.raises(InputError, match=said):
        saelens.imported(tmp_path / "coder")


def test_dictionaries_of_dictionary_learning_encode_alike(coders, tmp_path):
    rows = coders[0] - coders[0].mean(0)
    save_file({"rows": rows}, tmp_path / "rows.safetensors")
    run(DICTIONARY_LEARNING, "dictionary_learning_writes.py", tmp_path / "rows.safetensors", tmp_path / "out")
    found = load_file(tmp_path / "out" / "found.safetensors")
    names = [folder.name for folder in (tmp_path / "out").iterdir() if folder.is_dir()]
    assert len(names) == 6
    for name in names:
        coder = Coder(*dictionary_learning.imported(tmp_path / "out" / name), sae.Free())
        codes = coder.encode(rows)
        assert 0 < float((found[f"{name}.codes"] != 0).float().mean()) < 0.9, name
        require_alike(dense(codes, 24), found[f"{name}.codes"], 1e-5)
        require_alike(coder.decode(codes), found[f"{name}.rebuilt"], 1e-5)


def test_k_is_read_from_the_config_where_the_weights_lack_it(tmp_path):
    weights = {
        "encoder.weight": randn(6, 4),
        "encoder.bias": randn(6),
        "decoder.weight": randn(4, 6),
        "b_dec": randn(4),
    }
    torch.save(weights, tmp_path / "ae.pt")
    (tmp_path / "config.json").write_text('{"trainer": {"dict_class": "AutoEncoderTopK", "k": 2}}')
    assert dictionary_learning.imported(tmp_path)[1] == sae.TopK(k=2)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="no 'trainer'"):
        dictionary_learning.imported(tmp_path)


def test_a_pickle_that_runs_code_is_not_read(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    (tmp_path / "config.json").write_text('{"trainer": {"dict_class": "AutoEncoder"}}')
    (tmp_path / "ae.pt").write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(InputError, match="runs code"):
        dictionary_learning.imported(tmp_path)
    assert not (tmp_path / "ran").exists()
