"""What is known of a model before its weights are loaded, and how a loaded one is read."""

import hashlib
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import torch
import transformers as hf

from storage.errors import InputError
from storage.site import Site
from tests.workers.families import LAYERS, TEXT, VISION, VOCABULARY, WIDTH, build
from workers.model import LM, ModelSpec, check_sites, inspect, load
from workers.sketch import sketch

IDS = torch.tensor([[5, 6, 7, 8]])


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a family's model; made once."""
    root = tmp_path_factory.mktemp("models")

    def folder(name: str) -> Path:
        if not (root / name).exists():
            build((TEXT | VISION)[name].config).save_pretrained(root / name)
        return root / name

    return folder


def _loaded(folder: Path) -> LM:
    return load(ModelSpec(source=str(folder)))


def _sites(*texts: str) -> list[Site]:
    return [Site.parse(text) for text in texts]


def _rewrite(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def _copy(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to))


class TestInspect:
    def test_tells_sizes(self, saved):
        facts = inspect(str(saved("gpt2")))
        assert (facts.name, facts.source, facts.revision) == ("gpt2", str(saved("gpt2")), "")
        assert (facts.kind, facts.layers, facts.width) == ("text", LAYERS, WIDTH)
        assert (facts.vocabulary, facts.context) == (VOCABULARY, 64)
        assert (facts.tokenizer, facts.processor) == ("", "")

    def test_tells_images_from_text(self, saved):
        facts = inspect(str(saved("vit")))
        assert (facts.kind, facts.vocabulary, facts.context) == ("vision", 0, 0)

    @pytest.mark.parametrize(("family", "context"), [("roberta", 62), ("bert", 64), ("bloom", 0), ("falcon_alibi", 0)])
    def test_counts_the_positions_a_sequence_may_use(self, saved, family, context):
        assert inspect(str(saved(family))).context == context

    def test_longest_sequence_that_roberta_takes_is_the_context(self, saved):
        lm, context = _loaded(saved("roberta")), inspect(str(saved("roberta"))).context
        assert lm.read({"input_ids": torch.full((1, context), 5)}, _sites("embed"))
        with pytest.raises((IndexError, RuntimeError)):
            lm.read({"input_ids": torch.full((1, context + 1), 5)}, _sites("embed"))

    def test_loads_no_weight(self, saved, tmp_path):
        folder = _copy(saved("gpt2"), tmp_path / "gpt2")
        (folder / "model.safetensors").write_bytes(b"no weights at all")
        found, whole = inspect(str(folder)), inspect(str(saved("gpt2")))
        assert found.weights != whole.weights
        assert msgspec.structs.replace(found, weights=whole.weights, source=whole.source) == whole
        with pytest.raises(InputError, match="cannot be loaded"):
            _loaded(folder)

    def test_copy_elsewhere_has_the_same_digests(self, saved, tmp_path):
        copy = _copy(saved("llama"), tmp_path / "llama")
        _rewrite(copy, _name_or_path="/somewhere/else", transformers_version="0.0")
        assert msgspec.structs.replace(inspect(str(copy)), source="") == msgspec.structs.replace(
            inspect(str(saved("llama"))), source=""
        )

    def test_one_changed_weight_changes_the_digest_of_the_weights_alone(self, saved, tmp_path):
        model = build(TEXT["llama"].config)
        model.norm.weight[3] += 1e-3
        model.save_pretrained(tmp_path / "llama")
        found, whole = inspect(str(tmp_path / "llama")), inspect(str(saved("llama")))
        assert (found.weights != whole.weights, found.config) == (True, whole.config)

    def test_changed_config_is_seen_in_the_same_process(self, saved, tmp_path):
        folder = _copy(saved("llama"), tmp_path / "llama")
        before = inspect(str(folder))
        _rewrite(folder, max_position_embeddings=32)
        after = inspect(str(folder))
        assert (before.context, after.context) == (64, 32)
        assert before.config != after.config

    def test_sharded_weights_are_digested_and_a_lost_shard_is_named(self, tmp_path):
        build(TEXT["llama"].config).save_pretrained(tmp_path / "m", max_shard_size="20KB")
        shards = sorted((tmp_path / "m").glob("*.safetensors"))
        assert len(shards) > 1
        assert inspect(str(tmp_path / "m")).weights
        shards[-1].unlink()
        with pytest.raises(InputError, match=shards[-1].name):
            inspect(str(tmp_path / "m"))

    def test_digests_tokenizer_and_processor_files(self, saved, tmp_path):
        folder = _copy(saved("gpt2"), tmp_path / "gpt2")
        (folder / "tokenizer.json").write_text("{}")
        first = inspect(str(folder)).tokenizer
        (folder / "tokenizer.json").write_text('{"a": 1}')
        (folder / "preprocessor_config.json").write_text("{}")
        assert first
        assert inspect(str(folder)).tokenizer not in ("", first)
        assert inspect(str(folder)).processor

    def test_hub_cache_gives_commit_and_digests_without_reading_weights(self, saved, tmp_path, monkeypatch):
        commit, sha = "c" * 40, hashlib.sha256((saved("llama") / "model.safetensors").read_bytes()).hexdigest()
        cached = tmp_path / "models--team--tiny"
        for folder in ("refs", "blobs", f"snapshots/{commit}"):
            (cached / folder).mkdir(parents=True)
        (cached / "refs/main").write_text(commit)
        shutil.copy(saved("llama") / "config.json", cached / "snapshots" / commit)
        (cached / "blobs" / sha).write_bytes(b"not read")
        (cached / "snapshots" / commit / "model.safetensors").symlink_to(f"../../blobs/{sha}")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        found, whole = inspect("team/tiny"), inspect(str(saved("llama")))
        assert (found.name, found.source, found.revision) == ("tiny", "team/tiny", commit)
        assert (found.weights, found.config) == (whole.weights, whole.config)
        assert inspect("team/tiny", commit) == found


class TestRefusals:
    def test_missing_folder(self):
        with pytest.raises(InputError, match="no such folder"):
            inspect("./no/such/model")

    def test_unknown_hub_id(self, monkeypatch, tmp_path):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(InputError, match=r"no model 'team/none' at revision 'v2'.*check the name"):
            inspect("team/none", "v2")

    def test_folder_without_config(self, tmp_path):
        with pytest.raises(InputError, match=r"no config\.json"):
            inspect(str(tmp_path))

    def test_config_that_is_no_json(self, tmp_path):
        (tmp_path / "config.json").write_text("{")
        with pytest.raises(InputError, match="not JSON"):
            inspect(str(tmp_path))

    def test_folder_without_weights(self, saved, tmp_path):
        shutil.copy(saved("gpt2") / "config.json", tmp_path)
        with pytest.raises(InputError, match="holds no weights"):
            inspect(str(tmp_path))

    @pytest.mark.parametrize(
        ("config", "why"),
        [
            (hf.T5Config(), "encoder-decoder"),
            (hf.HubertConfig(), "reads input_values"),
            (hf.ConvNextConfig(), "no row per token"),
            (hf.CanineConfig(), "no row per token"),
            (hf.AlbertConfig(num_hidden_layers=2), "shared"),
            (hf.BrosConfig(), "does not run on text alone"),
        ],
        ids=lambda value: getattr(value, "model_type", ""),
    )
    def test_models_of_another_shape(self, tmp_path, config, why):
        config.save_pretrained(tmp_path)
        with pytest.raises(InputError, match=why):
            inspect(str(tmp_path))

    def test_model_type_that_transformers_does_not_know(self, tmp_path):
        (tmp_path / "config.json").write_text('{"model_type": "nonesuch"}')
        with pytest.raises(InputError, match="transformers"):
            inspect(str(tmp_path))

    def test_weights_that_are_not_whole(self, tmp_path):
        model = build(TEXT["gpt2"].config)
        weights = {name: weight for name, weight in model.state_dict().items() if name != "h.1.ln_2.bias"}
        model.save_pretrained(tmp_path, state_dict=weights)
        with pytest.raises(InputError, match=r"lacks 1 of its weights, h\.1\.ln_2\.bias"):
            _loaded(tmp_path)

    def test_but_a_checkpoint_without_pooler_is_read(self, tmp_path):
        hf.BertForMaskedLM(TEXT["bert"].config).save_pretrained(tmp_path)
        assert _loaded(tmp_path).read({"input_ids": IDS}, _sites("unembed"))


class TestSites:
    def test_widths(self, saved):
        sites = _sites("embed", "resid.2", "attn.0", "mlp.0", "unembed", "module:layers.1.mlp.down_proj")
        assert check_sites(str(saved("llama")), None, sites) == dict.fromkeys(sites, WIDTH)
        wide = _sites("module:layers.1.mlp.up_proj")
        assert check_sites(str(saved("llama")), None, wide) == {wide[0]: 48}

    def test_unembed_is_as_wide_as_the_unembedding_reads(self, saved):
        sites = _sites("resid.0", "unembed")
        assert list(check_sites(str(saved("opt_projected")), None, sites).values()) == [WIDTH, 16]

    @pytest.mark.parametrize(
        ("family", "site", "why"),
        [
            ("llama", "resid.3", r"no site resid\.3: it has blocks 0\.\.2"),
            ("llama", "attn.12", r"blocks 0\.\.2"),
            ("llama", "module:layers.0.self_atn", r"nearest are .*layers\.0\.self_attn"),
            ("llama", "module:?", "its first are"),
            ("llama", "module:rotary_emb", "not a row per token"),
            ("bert", "module:pooler", "not a row per token"),
            ("phi", "module:layers.0.resid_dropout", "runs 2 times"),
            ("mixtral", "module:layers", "does not run"),
        ],
    )
    def test_unknown_ones_are_refused_with_what_there_is(self, saved, family, site, why):
        with pytest.raises(InputError, match=why):
            check_sites(str(saved(family)), None, _sites(site))

    def test_a_block_without_two_halves_refuses_them_alone(self, tmp_path):
        config = hf.MambaConfig(hidden_size=WIDTH, num_hidden_layers=2, vocab_size=VOCABULARY, state_size=4)
        build(config).save_pretrained(tmp_path)
        assert check_sites(str(tmp_path), None, _sites("resid.1"))
        with pytest.raises(InputError, match="its block adds mixer, not attention and an MLP"):
            check_sites(str(tmp_path), None, _sites("attn.1"))

    def test_scale_on_the_way_into_the_stream_is_part_of_the_site(self, saved):
        anatomy = sketch(str(saved("granite")), "").anatomy
        assert {anatomy.tap(site).scale for site in _sites("attn.1", "mlp.1")} == {0.22}
        assert anatomy.tap(Site("resid", 1)).scale == 1.0


class TestReading:
    def test_blocks_after_the_deepest_site_do_not_run(self, saved):
        lm = _loaded(saved("gpt2"))
        ran: list[int] = []
        blocks = lm.module.get_submodule("h").children()
        hooks = [block.register_forward_pre_hook(lambda *_, n=n: ran.append(n)) for n, block in enumerate(blocks)]
        for text, blocks_run in (("embed", [0]), ("resid.0", [0]), ("attn.1", [0, 1]), ("unembed", [0, 1, 2])):
            lm.read({"input_ids": IDS}, _sites("embed", text))
            assert ran == blocks_run, text
            ran.clear()
        for hook in hooks:
            hook.remove()

    def test_later_half_of_the_deepest_block_does_not_run(self, saved):
        lm = _loaded(saved("gpt2"))
        ran: list[bool] = []
        lm.module.get_submodule("h.1.mlp").register_forward_pre_hook(lambda *_: ran.append(True))
        lm.read({"input_ids": IDS}, _sites("attn.1"))
        assert not ran

    def test_module_site_is_the_module_output(self, saved):
        lm, site = _loaded(saved("llama")), Site("module", path="layers.1.mlp.act_fn")
        kept: list[torch.Tensor] = []
        hook = lm.module.get_submodule(site.path).register_forward_hook(lambda *call: kept.append(call[2]))
        with torch.no_grad():
            lm.module(input_ids=IDS)
        hook.remove()
        assert torch.equal(lm.read({"input_ids": IDS}, [site])[site], kept[0])

    def test_no_hook_is_left_whatever_happened(self, saved):
        lm = _loaded(saved("llama"))
        lm.read({"input_ids": IDS}, _sites("embed", "attn.1", "resid.1"))
        with pytest.raises(IndexError):
            lm.read({"input_ids": IDS + VOCABULARY}, _sites("embed", "attn.1"))
        with pytest.raises(InputError):
            lm.read({"input_ids": IDS}, _sites("embed", "attn.7"))
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in lm.module.modules())

    def test_rows_are_not_changed_by_what_runs_later(self, saved):
        lm = _loaded(saved("falcon"))
        first, later = _sites("mlp.0", "unembed")
        alone = lm.read({"input_ids": IDS}, [first])[first]
        assert torch.equal(lm.read({"input_ids": IDS}, [first, later])[first], alone)

    def test_model_is_frozen_and_in_eval_mode(self, saved):
        lm = _loaded(saved("gpt2"))
        assert not lm.module.training
        assert not any(parameter.requires_grad for parameter in lm.module.parameters())
        assert not lm.read({"input_ids": IDS}, _sites("resid.0"))[Site("resid", 0)].requires_grad

    def test_left_padding_is_our_own_mistake(self, saved):
        mask = torch.tensor([[0, 1, 1, 1]])
        with pytest.raises(AssertionError):
            _loaded(saved("gpt2")).read({"input_ids": IDS, "attention_mask": mask}, _sites("embed"))

    @pytest.mark.parametrize("family", ["llama", "vit"])
    def test_half_precision(self, saved, family):
        spec = ModelSpec(source=str(saved(family)), dtype="bfloat16")
        inputs = {"input_ids": IDS} if family == "llama" else {"pixel_values": torch.randn(1, 3, 24, 24)}
        rows = load(spec).read(inputs, _sites("resid.1"))[Site("resid", 1)]
        wide = _loaded(saved(family)).read(inputs, _sites("resid.1"))[Site("resid", 1)]
        assert rows.dtype == torch.bfloat16
        assert (rows - wide).norm() < 0.05 * wide.norm()

    def test_spec_travels(self, saved):
        spec = ModelSpec(source=str(saved("gpt2")))
        assert pickle.loads(pickle.dumps(spec)) == spec


class TestTowers:
    @pytest.mark.parametrize(
        ("pair", "text", "image"),
        [
            (hf.CLIPConfig, hf.CLIPTextConfig, "clip_vision"),
            (hf.SiglipConfig, hf.SiglipTextConfig, "siglip_vision"),
        ],
    )
    def test_of_a_pair_of_encoders_the_image_encoder_is_read(self, tmp_path, pair, text, image):
        texts = text(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, vocab_size=VOCABULARY
        )
        whole = build(pair(text_config=texts.to_dict(), vision_config=VISION[image].config.to_dict()))
        whole.save_pretrained(tmp_path)
        pixels, last = torch.randn(1, 3, 24, 24), Site("unembed")
        rows = _loaded(tmp_path).read({"pixel_values": pixels}, [last])[last]
        with torch.no_grad():
            wanted = whole.vision_model(pixel_values=pixels).last_hidden_state
        assert inspect(str(tmp_path)).kind == "vision"
        assert (rows - wanted).abs().max() < 1e-5 * wanted.norm(dim=-1).min()

    def test_of_a_model_that_also_sees_the_text_part_is_read(self, tmp_path):
        texts, images = TEXT["gemma3"].config.to_dict(), VISION["siglip_vision"].config.to_dict()
        config = hf.Gemma3Config(text_config=texts, vision_config=images, mm_tokens_per_image=1)
        whole = build(config)
        whole.save_pretrained(tmp_path)
        site = Site("resid", 1)
        rows = _loaded(tmp_path).read({"input_ids": IDS}, [site])[site]
        with torch.no_grad():
            wanted = whole(input_ids=IDS, output_hidden_states=True).hidden_states[2]
        assert inspect(str(tmp_path)).kind == "text"
        assert (rows - wanted).abs().max() < 1e-5 * wanted.norm(dim=-1).min()


class TestTables:
    def test_input_embedding(self, saved):
        lm = _loaded(saved("gpt2"))
        rows = lm.table(Site("embed"), [3, 1])
        assert torch.equal(rows, build(TEXT["gpt2"].config).wte.weight[[3, 1]])

    def test_tied_output_embedding_is_the_input_embedding(self, saved):
        lm = _loaded(saved("gpt2"))
        assert torch.equal(lm.table(Site("unembed"), [3]), lm.table(Site("embed"), [3]))

    def test_untied_output_embedding_is_read_from_the_checkpoint(self, tmp_path):
        torch.manual_seed(0)
        whole = hf.LlamaForCausalLM(TEXT["llama"].config)
        whole.save_pretrained(tmp_path)
        lm = _loaded(tmp_path)
        assert torch.equal(lm.table(Site("unembed"), torch.tensor([3, 1])), whole.lm_head.weight[[3, 1]])
        assert not torch.equal(lm.table(Site("unembed"), [3]), lm.table(Site("embed"), [3]))

    def test_checkpoint_without_output_embedding_says_so(self, saved):
        with pytest.raises(InputError, match="holds no unembedding"):
            _loaded(saved("llama")).table(Site("unembed"), [3])

    def test_table_narrower_than_the_stream_is_refused(self, saved):
        lm = _loaded(saved("opt_projected"))
        with pytest.raises(InputError, match="of width 16, its site of width 32"):
            lm.table(Site("embed"), [3])
        assert lm.table(Site("unembed"), [3]).shape == (1, 16)

    def test_other_sites_are_no_tables(self, saved):
        with pytest.raises(InputError, match=r"resid\.0 is no table"):
            _loaded(saved("gpt2")).table(Site("resid", 0), [3])
