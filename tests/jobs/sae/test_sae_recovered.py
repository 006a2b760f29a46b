"""Loss recovered and feature ablation, from real harvests: what the cache says, the live model says, and a forward by
hand says, are one."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from torch import Tensor
from torch.nn import functional

from jobs.core.excerpts import Excerpts, excerpts
from jobs.sae.ablation import ablate
from jobs.sae.codes import Dense
from jobs.sae.final_norm import fit
from jobs.sae.recovered import LiveLosses, Recovered, cache_losses, recovered
from pipeline.progress import Progress
from pipeline.run import run
from storage import Cache, InputError, Lake, Site
from storage.sequences import Sequences
from tests.conftest import Doc
from tests.pipeline import tiny
from workers import live

FIRST, LAST, UNEMBED = Site("resid", 0), Site("resid", 1), Site("unembed")
_SIZES = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48}
_GPT = {"n_layer": 2, "n_embd": 32, "n_head": 4, "n_positions": 64, "tie_word_embeddings": False}
CONFIGS = {
    "gpt2": hf.GPT2Config(**tiny._TEXT, **_GPT),
    "llama": hf.LlamaConfig(**tiny._TEXT, **_SIZES, max_position_embeddings=64),
    "gptj": hf.GPTJConfig(**tiny._TEXT, **_GPT, rotary_dim=4),
}


@dataclass(frozen=True)
class World:
    """A model, the cache of some texts, and that of its vocabulary."""

    plain: Any
    cache: Cache
    vocabulary: Cache
    model: live.Live

    def excerpts(self, rows: np.ndarray | None = None, batch: int = 200) -> list[Excerpts]:
        asked = np.arange(self.cache.n_rows) if rows is None else rows
        return list(excerpts(self.cache, LAST, asked, self.cache.n_rows, batch))

    def mean(self, site: Site) -> Tensor:
        return torch.tensor(self.cache.site(site).moments.mean, dtype=torch.float32)

    def live(self, site: Site, rebuild: Callable[[Tensor], Tensor], rows: np.ndarray | None = None) -> Recovered:
        return recovered(self.excerpts(rows), LiveLosses(self.model, site), rebuild, self.mean(site))

    def cached(self, site: Site, rebuild: Callable[[Tensor], Tensor], rows: np.ndarray | None = None) -> Recovered:
        losses = cache_losses(self.cache, site, self.vocabulary, "cpu")
        return recovered(self.excerpts(rows), losses, rebuild, self.mean(site))


def harvested(base: Path, name: str, **cache: Any) -> World:
    torch.manual_seed(0)
    plain = hf.AutoModelForCausalLM.from_config(CONFIGS[name]).eval().requires_grad_(False)
    for parameter in plain.parameters():
        parameter.add_(torch.randn_like(parameter) * (0.3 if parameter.dim() == 1 else 0.15))
    plain.save_pretrained(base / "model")
    tiny.save_tokenizer(base / "model")
    tiny.write_texts(base / "docs" / "a.jsonl", tiny.TEXTS)
    recipe = tiny.table(base / "model", base, **({"sites": ["resid.0", "resid.1", "unembed"]} | cache))
    recipe["corpora"]["tokens"] = {"vocabulary": True}
    recipe["caches"]["tokens"] = {"model": "model", "corpus": "tokens", "sites": ["unembed"], "dtype": "float32"}
    opened = tiny.read(recipe, base)
    run(opened, Progress(live=False))
    lake = Lake(opened.lake)
    vocabulary, texts = sorted(map(lake.cache, lake.caches()), key=lambda held: "vocabulary" not in held.id)
    model = live.load(str(base / "model"), texts.record.identity.model, "cpu")
    return World(plain, texts, vocabulary, model)


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    return harvested(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> World:
    return harvested(tmp_path_factory.mktemp("other"), "gpt2")


def halved(x_ND: Tensor) -> Tensor:
    """A coder that rebuilds rows badly."""
    return x_ND * (torch.arange(x_ND.shape[1]) % 2)


def same(x_ND: Tensor) -> Tensor:
    return x_ND.clone()


def numbers(found: Recovered) -> list[float]:
    return [found.original, found.rebuilt, found.zero, found.mean]


def by_hand(world: World) -> np.ndarray:
    """The loss at every row of each sequence run alone, NaN at its end."""
    losses = []
    for segment in world.cache.segments:
        for sequence in Sequences(segment).touching(0, segment.plan.rows):
            ids_1T = torch.from_numpy(sequence.input_ids.astype(np.int64))[None]
            with torch.no_grad():
                logits_TV = world.plain(input_ids=ids_1T).logits[0]
            losses += [
                functional.cross_entropy(logits_TV[:-1], ids_1T[0, 1:], reduction="none"),
                torch.tensor([np.nan]),
            ]
    return torch.cat(losses).numpy()


class TestLossRecovered:
    @pytest.mark.parametrize("site", [LAST, UNEMBED], ids=str)
    def test_from_the_cache_is_that_of_the_live_model(self, world, site):
        np.testing.assert_allclose(numbers(world.cached(site, halved)), numbers(world.live(site, halved)), atol=1e-5)

    @pytest.mark.parametrize("site", [FIRST, LAST, UNEMBED], ids=str)
    def test_is_1_of_a_coder_that_changes_nothing_and_0_of_one_that_says_nothing(self, world, site):
        for measured in (world.live, *((world.cached,) if site != FIRST else ())):
            whole, nothing, mean = (measured(site, fn) for fn in (same, torch.zeros_like, world.mean(site).expand_as))
            assert (whole.share, whole.share_of_mean) == (1, 1)
            assert nothing.share == 0
            assert mean.share_of_mean == 0
            assert nothing.share_of_mean != 0

    def test_without_a_coder_is_the_loss_of_a_forward_by_hand(self, world):
        found, wanted = world.live(FIRST, same), by_hand(world)
        assert found.original == pytest.approx(np.nanmean(wanted), abs=1e-5)
        assert found.tokens == np.isfinite(wanted).sum()

    def test_counts_the_rows_asked_for_alone(self, world):
        asked, wanted = np.arange(5, world.cache.n_rows, 7), by_hand(world)
        assert world.cached(LAST, same, asked).original == pytest.approx(np.nanmean(wanted[asked]), abs=1e-5)
        assert world.live(LAST, same, asked).original == pytest.approx(np.nanmean(wanted[asked]), abs=1e-5)
        assert world.live(LAST, halved, asked).rebuilt != pytest.approx(world.live(LAST, halved).rebuilt, abs=1e-4)

    def test_of_a_broken_coder_is_no_number(self, gpt2):
        assert np.isnan(gpt2.live(LAST, lambda x: x * torch.nan).share)
        assert np.isnan(gpt2.cached(LAST, lambda x: x * torch.nan).share)

    def test_of_rows_without_a_next_token_is_refused(self, gpt2):
        ends = np.flatnonzero(np.isnan(by_hand(gpt2)))
        with pytest.raises(InputError, match="none of the rows has a next token"):
            gpt2.live(LAST, same, ends)

    def test_leaves_tokens_without_a_row_as_they_are(self, tmp_path):
        world = harvested(tmp_path, "gpt2", tokenise={"select": {"kind": "every", "n": 4}})
        one = world.excerpts()[0]
        assert len(one.rows_R) < sum(map(len, one.sequences))
        seen = []
        LiveLosses(world.model, FIRST)(one, lambda x: seen.append(x) or x)
        rows = torch.from_numpy(world.cache.site(FIRST)[one.rows_R].copy())
        torch.testing.assert_close(seen[0], rows, atol=1e-5, rtol=1e-4)


class TestFinalNorm:
    def test_is_the_models_own(self, world):
        norm = fit(world.cache.site(LAST), world.cache.site(UNEMBED), "cpu")
        own = getattr(world.plain.base_model, "ln_f", None) or world.plain.base_model.norm
        assert norm.kind == ("layer" if hasattr(own, "bias") else "rms")
        torch.testing.assert_close(norm.gain_D, own.weight, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(norm.bias_D, getattr(own, "bias", torch.zeros(32)), atol=1e-4, rtol=1e-4)

    def test_of_an_earlier_block_is_refused(self, gpt2):
        with pytest.raises(InputError, match=r"at resid.0 cannot be worked out .* no final norm leads from there"):
            gpt2.cached(FIRST, same)

    @pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
    def test_is_found_in_rounded_rows_and_not_where_rows_are_others(self, make_cache, dtype):
        x_ND = np.random.default_rng(0).standard_normal((400, 16)).astype(np.float32) + 3
        y_ND = functional.layer_norm(torch.from_numpy(x_ND), (16,), torch.linspace(1, 2, 16), torch.ones(16)).numpy()
        documents = [Doc(" ".join(["w"] * 400))]
        cache = make_cache({"resid.1": x_ND, "unembed": y_ND, "resid.0": x_ND[::-1]}, documents, dtype=dtype)
        norm = fit(cache.site(LAST), cache.site(UNEMBED), "cpu")
        assert norm.kind == "layer"
        torch.testing.assert_close(norm.gain_D, torch.linspace(1, 2, 16), atol=0.01, rtol=0.01)
        with pytest.raises(InputError, match="no final norm"):
            fit(cache.site(FIRST), cache.site(UNEMBED), "cpu")

    def test_of_a_few_rows_is_refused(self, make_cache):
        x_ND = np.random.default_rng(0).standard_normal((2, 16)).astype(np.float32)
        cache = make_cache({"resid.1": x_ND, "unembed": x_ND}, [Doc("a b")])
        with pytest.raises(InputError, match="it has 2 rows of width 16"):
            fit(cache.site(LAST), cache.site(UNEMBED), "cpu")


class TestTable:
    def test_of_another_model_or_of_no_vocabulary_is_refused(self, world, gpt2, tmp_path):
        other = harvested(tmp_path, "gptj")
        with pytest.raises(InputError, match=r"is of another model \(model\) than .* name the vocabulary cache of"):
            cache_losses(world.cache, LAST, other.vocabulary, "cpu")
        with pytest.raises(InputError, match="does not hold every token of a vocabulary once and in order"):
            cache_losses(world.cache, LAST, world.cache, "cpu")

    def test_of_a_head_that_adds_a_bias_is_refused_where_logits_are_cached(self, tmp_path):
        fields = {"sites": ["resid.1", "unembed", "logits.some"], "sets": {"some": [5, 6]}}
        for name in ("gpt2", "gptj"):
            world = harvested(tmp_path / name, name, **fields)
            if name == "gpt2":
                assert world.cached(UNEMBED, same).share == 1
                continue
            with pytest.raises(InputError, match=r"does not give the harvested logits.some: the log-sum-exp is off by"):
                world.cached(UNEMBED, same)


class TestAblation:
    def test_of_a_feature_is_a_forward_by_hand_without_it(self, world):
        atoms_FD = torch.randn(6, 32, generator=torch.Generator().manual_seed(1))
        heard_FD = torch.randn(6, 32, generator=torch.Generator().manual_seed(2))
        heard_FD[3] = 0

        def encode(x_BD: Tensor) -> Dense:
            return Dense((x_BD @ heard_FD.T).relu())

        asked = np.arange(0, world.cache.n_rows, 11)
        found = ablate(world.model, FIRST, world.excerpts(asked), encode, atoms_FD, [4, 3])
        clean = by_hand(world)
        assert found.rows_R.tolist() == [row for row in asked if np.isfinite(clean[row])]
        np.testing.assert_allclose(found.loss_R, clean[found.rows_R], atol=1e-4)

        def without(_: Any, args: Any, out: Any) -> Tensor:
            return out - (out @ heard_FD[4]).relu()[..., None] * atoms_FD[4]

        blocks = world.plain.base_model.h if hasattr(world.plain.base_model, "h") else world.plain.base_model.layers
        with blocks[0].register_forward_hook(without):
            wanted = by_hand(world)
        np.testing.assert_allclose(found.harm_MR[0], (wanted - clean)[found.rows_R], atol=1e-4)
        assert np.abs(found.harm_MR[0]).max() > 0.1
        assert 0 < found.fires_MR[0].mean() < 1
        assert found.logits_MV[0].any()
        assert not found.harm_MR[1].any()
        assert not found.fires_MR[1].any()
        assert not found.logits_MV[1].any()

    def test_keeps_what_the_coder_does_not_explain(self, gpt2):
        """An atom of length zero takes nothing out, though the feature is loud."""
        atoms_FD = torch.zeros(1, 32)
        found = ablate(gpt2.model, FIRST, gpt2.excerpts(), lambda x: Dense(torch.ones(len(x), 1)), atoms_FD, [0])
        assert found.fires_MR.all()
        assert not found.harm_MR.any()
        assert not found.logits_MV.any()

    def test_changes_the_logits_of_unembed_by_the_atom(self, gpt2):
        atoms_FD = torch.randn(1, 32)
        found = ablate(gpt2.model, UNEMBED, gpt2.excerpts(), lambda x: Dense(torch.ones(len(x), 1)), atoms_FD, [0])
        wanted_V = -(gpt2.plain.lm_head.weight @ atoms_FD[0])
        np.testing.assert_allclose(found.logits_MV[0], wanted_V.numpy(), atol=1e-4)
