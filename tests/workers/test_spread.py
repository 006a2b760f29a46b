"""Models whose parts stand on several devices: what is read of them is what one device gives."""

import importlib.util

import pytest
import torch
from transformers import AutoModel

from storage.errors import InputError
from storage.site import Site
from tests.pipeline import tiny
from tests.workers.families import TEXT, build
from workers import spread
from workers.model import LM, ModelSpec, load
from workers.sketch import sketch

IDS = torch.tensor([[5, 6, 7, 8], [9, 9, 10, 10]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
SITES = tuple(map(Site.parse, ("embed", "resid.0", "attn.1", "mlp.1", "resid.1", "mass.first.1", "unembed")))

needs_accelerate = pytest.mark.skipif(importlib.util.find_spec("accelerate") is None, reason="needs accelerate")


def read(lm, sites=SITES):
    spans = {"first": torch.tensor([[True, False, False, False]] * 2)}
    found = lm.read({"input_ids": IDS, "attention_mask": MASK}, sites, spans)
    return {site: x_BTd[MASK.bool().to(x_BTd.device)].cpu() for site, x_BTd in found.items()}


def scattered(lm, folder):
    """The model with hooks of accelerate: its second block lies on disk and comes to the CPU when it is called."""
    from accelerate import dispatch_model

    names = [name for name, _ in lm.module.named_children()]
    (blocks,) = [name for name in names if name in ("h", "layers")]
    number = len(lm.module.get_submodule(blocks))
    places = {name: "cpu" for name in names if name != blocks}
    places |= {f"{blocks}.{n}": "disk" if n == 1 else "cpu" for n in range(number)}
    dispatch_model(lm.module, places, main_device="cpu", offload_dir=folder, force_hooks=True)
    assert lm.module.get_submodule(f"{blocks}.1").mlp.parameters().__next__().device.type == "meta"


def assert_same(found, wanted):
    assert all(torch.equal(found[site], wanted[site]) for site in wanted)
    assert found.keys() == wanted.keys()


@needs_accelerate
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_sites_are_read_through_the_hooks_that_carry_states_between_devices(family, tmp_path):
    build(TEXT[family].config).save_pretrained(tmp_path / "model")
    lm = load(ModelSpec(source=str(tmp_path / "model")))
    wanted = read(lm)
    scattered(lm, tmp_path / "disk")
    assert_same(read(lm), wanted)
    assert_same(read(lm, SITES[:4]), {site: wanted[site] for site in SITES[:4]})  # ends inside the block on disk
    assert_same(read(lm), wanted)


@needs_accelerate
def test_blocks_after_the_deepest_site_do_not_run_with_hooks_either(tmp_path):
    build(TEXT["gpt2"].config).save_pretrained(tmp_path / "model")
    lm = load(ModelSpec(source=str(tmp_path / "model")))
    scattered(lm, tmp_path / "disk")
    ran = []
    for n, block in enumerate(lm.module.get_submodule("h")):
        block.register_forward_pre_hook(lambda *_, n=n: ran.append(n))
    read(lm, SITES[:2])
    assert ran == [0]


@needs_accelerate
@pytest.mark.parametrize("tied", [True, False])
def test_logits_are_read_through_hooks(tied, tmp_path):
    folder = tiny.save_language_model(tmp_path / "model", tied)
    lm, at, sets = (
        load(ModelSpec(source=str(folder)), with_head=True),
        Site("unembed"),
        {Site("logits", path="s"): (5, 90)},
    )
    rows = read(lm, [at])[at]
    wanted = lm.logits(rows, sets)
    from accelerate import dispatch_model

    dispatch_model(lm.whole, {"transformer": "cpu", "lm_head": "cpu"}, main_device="cpu", force_hooks=True)
    for _ in range(2):
        assert_same({at: read(lm, [at])[at]}, {at: rows})
        assert_same(lm.logits(rows, sets), wanted)


@needs_accelerate
def test_auto_without_a_gpu_is_the_model_on_the_cpu(tmp_path):
    build(TEXT["llama"].config).save_pretrained(tmp_path / "model")
    lm = load(ModelSpec(source=str(tmp_path / "model"), device="auto"))
    if not torch.cuda.is_available():
        assert (lm.device, lm.hardware) == (torch.device("cpu"), "cpu")
        assert_same(read(lm), read(load(ModelSpec(source=str(tmp_path / "model")))))


@pytest.mark.gpu
@needs_accelerate
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_model_over_two_gpus_gives_what_the_cpu_gives(tmp_path):
    build(TEXT["llama"].config).save_pretrained(tmp_path / "model")
    alone = load(ModelSpec(source=str(tmp_path / "model")))
    model = AutoModel.from_pretrained(
        tmp_path / "model", device_map={"": 0} | {"layers.1": 1, "layers.2": 1, "norm": 1}
    )
    spec = ModelSpec(source=str(tmp_path / "model"), device="auto")
    lm = LM(spec, model.eval().requires_grad_(False), sketch(spec.source, ""))
    assert lm.device == torch.device("cuda", 0)
    found, wanted = read(lm), read(alone)
    assert all((found[site] - wanted[site]).abs().max() < 1e-4 for site in wanted)


def test_without_accelerate_it_is_said_what_to_install(monkeypatch, tmp_path):
    build(TEXT["llama"].config).save_pretrained(tmp_path / "model")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"accelerate.*pip install 'accelerate>="):
        load(ModelSpec(source=str(tmp_path / "model"), device="auto"))


def test_a_model_that_does_not_fit_its_gpus_is_refused_with_what_would_stay_outside():
    with pytest.raises(InputError, match=r"'large' does not fit.*2 of its 3 parts, 'h\.1' the first.*more GPUs"):
        spread.check("large", {"h.0": 0, "h.1": "cpu", "h.2": "disk"})
    spread.check("small", {"h.0": 0, "h.1": 1})
    spread.check("anywhere", {"": "cpu"})
