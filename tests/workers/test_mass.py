"""Attention mass is what eager attention's probabilities sum to over the span, and watching it changes no bit."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from transformers import AttentionInterface, AutoModel

from storage.errors import InputError
from storage.sequences import Sequence
from storage.site import SPANS, Site
from tests.workers.families import LAYERS, TEXT, VOCABULARY, WIDTH, build
from workers.mass import Attention, indicators
from workers.model import LM, ModelSpec, check_sites, load
from workers.sketch import sketch

UNWATCHED = {name for name in TEXT if name.startswith(("gptj", "bloom", "falcon", "mpt"))}
"""Families whose attention is written into their own modules."""
WATCHED = sorted(set(TEXT) - UNWATCHED)
LENGTHS = (12, 7, 1)
MASSES = [Site("mass", layer, span) for layer in range(LAYERS) for span in ("first", "user")]
STREAM = [Site("embed"), Site("attn", 1), Site("resid", LAYERS - 1), Site("unembed")]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a family's model; made once."""
    root = tmp_path_factory.mktemp("models")

    def folder(name: str) -> Path:
        if not (root / name).exists():
            build(TEXT[name].config).save_pretrained(root / name)
        return root / name

    return folder


def _inputs() -> dict[str, torch.Tensor]:
    """Three sequences padded at the right."""
    ids_BT = torch.randint(3, VOCABULARY, (3, 12), generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids_BT, "attention_mask": (torch.arange(12) < torch.tensor(LENGTHS)[:, None]).long()}


def _spans() -> dict[str, torch.Tensor]:
    """The first token, and tokens 2, 4 and 5, which the shortest sequence has not."""
    first_BT, user_BT = torch.zeros(2, 3, 12, dtype=torch.bool)
    first_BT[:, 0] = True
    user_BT[:2, [2, 4, 5]] = True
    return {"first": first_BT, "user": user_BT}


@dataclass(frozen=True)
class Case:
    folder: Path
    lm: LM
    eager: Any


@pytest.fixture(scope="module", params=WATCHED)
def case(request: pytest.FixtureRequest, saved: Callable[[str], Path]) -> Case:
    folder = saved(request.param)
    eager = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    return Case(folder, load(ModelSpec(source=str(folder))), eager)


def _eager(case: Case, ids_T: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The attention probabilities [H, T, T] of every block, for one sequence alone."""
    with torch.no_grad():
        return tuple(a_1HTT[0] for a_1HTT in case.eager(input_ids=ids_T[None], output_attentions=True).attentions)


def test_mass_is_the_sum_of_eager_probabilities_over_the_span(case: Case):
    inputs, spans = _inputs(), _spans()
    read = case.lm.read(inputs, MASSES, spans)
    for row, length in enumerate(LENGTHS):
        attentions = _eager(case, inputs["input_ids"][row, :length])
        for site in MASSES:
            wanted_TH = attentions[site.layer][:, :, spans[site.path][row, :length]].sum(-1).T
            found_TH = read[site][row, :length]
            assert found_TH.dtype == torch.float32
            assert found_TH.shape == (length, 4)
            assert (found_TH - wanted_TH).abs().max() < 2e-6, (site, length)


def test_hidden_states_are_the_same_bits_with_mass_and_without(case: Case):
    inputs = _inputs()
    alone, among = case.lm.read(inputs, STREAM), case.lm.read(inputs, [*STREAM, *MASSES], _spans())
    assert list(among) == [*STREAM, *MASSES]
    for site in STREAM:
        assert torch.equal(alone[site], among[site]), site


def test_a_block_has_as_many_columns_as_query_heads(case: Case):
    assert check_sites(str(case.folder), None, MASSES) == dict.fromkeys(MASSES, 4)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_mass_of_half_precision_is_not_rounded_to_it(saved, family):
    inputs, spans = _inputs(), _spans()
    half = load(ModelSpec(source=str(saved(family)), dtype="bfloat16")).read(inputs, MASSES, spans)
    whole = load(ModelSpec(source=str(saved(family)))).read(inputs, MASSES, spans)
    for site in MASSES:
        assert half[site].dtype == torch.float32
        assert not torch.equal(half[site], half[site].bfloat16().float())
        assert (half[site] - whole[site])[0].abs().max() < 0.1


def test_a_span_that_no_head_sees_has_no_mass_and_the_first_token_sees_itself(saved):
    read = load(ModelSpec(source=str(saved("llama")))).read(_inputs(), MASSES, _spans())
    for layer in range(LAYERS):
        assert torch.equal(read[Site("mass", layer, "user")][:, :2], torch.zeros(3, 2, 4))
        assert torch.equal(read[Site("mass", layer, "first")][:, 0], torch.ones(3, 4))
    window = load(ModelSpec(source=str(saved("mistral")))).read(_inputs(), MASSES, _spans())
    assert torch.equal(window[Site("mass", 0, "first")][0, 3:], torch.zeros(9, 4))


def test_all_spans_at_once_sum_to_one_where_they_cover_the_sequence(saved):
    sites = [Site("mass", 1, span) for span in SPANS]
    spans = {span: torch.zeros(3, 12, dtype=torch.bool) for span in SPANS}
    for position in range(12):
        spans[SPANS[position % len(SPANS)]][:, position] = True
    read = load(ModelSpec(source=str(saved("qwen2")))).read(_inputs(), sites, spans)
    total_TH = torch.stack([read[site][0] for site in sites]).sum(0)
    assert (total_TH - 1).abs().max() < 1e-6


class TestStop:
    def test_nothing_runs_after_the_deepest_attention(self, saved):
        lm = load(ModelSpec(source=str(saved("llama"))))
        ran: list[str] = []
        for path in ("layers.0", "layers.1", "layers.1.self_attn.o_proj", "layers.2"):
            lm.module.get_submodule(path).register_forward_pre_hook(lambda *_, path=path: ran.append(path))
        lm.read(_inputs(), [Site("mass", 1, "first"), Site("resid", 0)], _spans())
        assert ran == ["layers.0", "layers.1"]

    def test_a_deeper_hidden_state_is_still_reached(self, saved):
        lm, sites = load(ModelSpec(source=str(saved("llama")))), [Site("mass", 0, "first"), Site("unembed")]
        assert list(lm.read(_inputs(), sites, _spans())) == sites

    @pytest.mark.parametrize("family", ["llama", "gemma2"])
    def test_transformers_is_as_it_was_whatever_happened(self, saved, family):
        before, lm = AttentionInterface.get_interface, load(ModelSpec(source=str(saved(family))))
        lm.read(_inputs(), MASSES, _spans())
        with pytest.raises(IndexError):
            lm.read({"input_ids": torch.full((1, 3), VOCABULARY)}, MASSES, _spans())
        assert AttentionInterface.get_interface is before


class TestAnatomy:
    @pytest.mark.parametrize("family", sorted(UNWATCHED))
    def test_attention_of_a_models_own_is_refused_and_its_stream_is_not(self, saved, family):
        assert check_sites(str(saved(family)), None, STREAM)
        with pytest.raises(InputError, match=r"cannot be read at mass\.first\.0: its attention is its own"):
            check_sites(str(saved(family)), None, MASSES)

    def test_a_layer_out_of_range_is_refused_with_those_there_are(self, saved):
        with pytest.raises(InputError, match=r"no site mass\.first\.3: it has blocks 0\.\.2"):
            check_sites(str(saved("llama")), None, [Site("mass", 3, "first")])

    def test_of_a_hybrid_the_blocks_that_attend_are_watched(self, tmp_path):
        config = hf.JambaConfig(
            vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, attn_layer_period=2, attn_layer_offset=1, expert_layer_period=8,
            expert_layer_offset=7, use_mamba_kernels=False, mamba_d_state=4, mamba_dt_rank=4, pad_token_id=0,
        )  # fmt: skip
        build(config).save_pretrained(tmp_path)
        mamba, attention = sketch(str(tmp_path), "").anatomy.attentions
        assert isinstance(mamba, str)
        assert attention == Attention("layers.1.self_attn", 4)

    def test_a_block_that_attends_twice_is_refused(self, tmp_path):
        class Twice(hf.models.llama.modeling_llama.LlamaAttention):
            def forward(self, *args: Any, **kwargs: Any) -> Any:
                super().forward(*args, **kwargs)
                return super().forward(*args, **kwargs)

        from workers.anatomy import study

        model = AutoModel.from_config(TEXT["llama"].config).eval()
        model.layers[1].self_attn.__class__ = Twice
        found = study("twice", model, {"input_ids": torch.ones(2, 5, dtype=torch.long)}, LAYERS).attentions
        assert found[0] == Attention("layers.0.self_attn", 4)
        assert found[1] == "it attends 2 times in a forward (layers.1.self_attn, layers.1.self_attn)"


class TestIndicators:
    def test_roles_are_those_of_the_sequences_tokens(self):
        chat = Sequence(0, np.arange(4, dtype=np.int32), None, roles=np.array([0, 1, 2, 3], np.int8))
        found = indicators([chat], set(SPANS), 5)
        assert {span: held_BT[0].nonzero().flatten().tolist() for span, held_BT in found.items()} == {
            "first": [0], "system": [1], "user": [2], "assistant": [3], "tool": [],
        }  # fmt: skip

    def test_only_the_first_token_needs_no_roles(self):
        plain = Sequence(0, np.arange(4, dtype=np.int32), None)
        assert indicators([plain], {"first"}, 4)["first"][0].tolist() == [True, False, False, False]
        with pytest.raises(AssertionError, match="roles are known"):
            indicators([plain], {"user"}, 4)


def test_a_model_of_two_is_read_beside_another(saved):
    """Watching one model leaves another, read within the same forward, alone."""
    outer, inner = (load(ModelSpec(source=str(saved(name)))) for name in ("llama", "qwen2"))
    wanted = outer.read(_inputs(), MASSES, _spans())
    seen: list[dict[Site, torch.Tensor]] = []
    inner_wanted = inner.read(_inputs(), MASSES, _spans())
    hook = outer.module.get_submodule("layers.1").register_forward_pre_hook(
        lambda *_: seen.append(inner.read(_inputs(), MASSES, _spans()))
    )
    found = outer.read(_inputs(), MASSES, _spans())
    hook.remove()
    assert all(torch.equal(found[site], wanted[site]) for site in MASSES)
    assert all(torch.equal(seen[0][site], inner_wanted[site]) for site in MASSES)
