"""A live model gives the loss of the checkpoint's own forward, and an edit is what a hook by hand would do."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from storage import InputError, RunError, Site
from storage.manifest import ModelIdentity
from tests.pipeline.tiny import save_vision
from tests.workers.families import LAYERS, TEXT, VOCABULARY, WIDTH, build, build_whole
from workers.live import Live, load
from workers.model import inspect

FAMILIES = ("gpt2", "llama", "gptj", "bloom", "granite", "falcon", "opt_projected", "mixtral")
"""Blocks that give a tensor and those that give a tuple, halves that are scaled or added in place, a projected end."""
UNEMBED, EMBED, MIDDLE = Site("unembed"), Site("embed"), Site("resid", 1)
LENGTHS = (12, 7, 1, 12)


@dataclass(frozen=True)
class Case:
    live: Live
    plain: Any
    blocks: str

    @property
    def block(self) -> Any:
        """Block 1 of the plain model."""
        return self.plain.base_model.get_submodule(f"{self.blocks}.1")


def made(folder: Path, **changes: str) -> ModelIdentity:
    facts = inspect(str(folder))
    known = {"weights": facts.weights, "config": facts.config, "name": facts.name, "revision": "", "dtype": "float32"}
    return ModelIdentity(**(known | changes))


def opened(folder: Path, model: Any) -> Live:
    model.save_pretrained(folder)
    return load(str(folder), made(folder), "cpu")


@pytest.fixture(scope="module", params=FAMILIES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    plain = build_whole(request.param)
    return Case(opened(tmp_path_factory.mktemp(request.param), plain), plain, TEXT[request.param].blocks)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Live:
    return opened(tmp_path_factory.mktemp("gpt2"), build_whole("gpt2"))


def sequences() -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.integers(3, VOCABULARY, n).astype(np.int32) for n in LENGTHS]


def by_hand(plain: Any) -> torch.Tensor:
    """The loss of each sequence run alone by plain transformers, NaN at its end."""
    losses = []
    for ids in sequences():
        ids_1T = torch.from_numpy(ids.astype(np.int64))[None]
        with torch.no_grad():
            logits_TV = plain(input_ids=ids_1T).logits[0]
        loss_T = functional.cross_entropy(logits_TV[:-1].double(), ids_1T[0, 1:], reduction="none").float()
        losses += [loss_T, torch.full((1,), torch.nan)]
    return torch.cat(losses)


def hooks(live: Live) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in live._lm.module.modules())


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-4, atol=1e-5, equal_nan=True)


def moved(x_Nd: torch.Tensor) -> torch.Tensor:
    """An edit that a hook by hand can do, too."""
    return 0.5 * x_Nd + torch.linspace(-2, 2, x_Nd.shape[-1])


class TestLoss:
    def test_is_that_of_the_plain_forward_of_each_sequence_alone(self, case):
        assert same(case.live.loss(sequences()), by_hand(case.plain))

    def test_is_nan_where_no_token_follows_and_nowhere_else(self, gpt2):
        ends = np.cumsum(LENGTHS) - 1
        assert gpt2.loss(sequences()).isnan().nonzero().flatten().tolist() == ends.tolist()

    def test_in_small_blocks_is_the_same(self, gpt2, monkeypatch):
        at_once = gpt2.loss(sequences())
        monkeypatch.setattr("workers.live._BLOCK_ROWS", 5)
        assert same(gpt2.loss(sequences()), at_once)

    def test_logits_of_unembed_rows_are_the_models(self, case):
        h_Nd = case.live.read(sequences()[:1], [UNEMBED])[UNEMBED]
        with torch.no_grad():
            wanted_TV = case.plain(input_ids=torch.from_numpy(sequences()[0].astype(np.int64))[None]).logits[0]
        assert same(case.live.logits(h_Nd), wanted_TV)


class TestEdits:
    def test_of_a_block_are_what_a_hook_by_hand_does(self, case):
        def leaving(_: Any, args: Any, out: Any) -> Any:
            return (moved(out[0]), *out[1:]) if isinstance(out, tuple) else moved(out)

        with case.block.register_forward_hook(leaving):
            wanted = by_hand(case.plain)
        with case.live.edit(MIDDLE, moved):
            found = case.live.loss(sequences())
        assert same(found, wanted)
        assert not same(found, by_hand(case.plain))
        assert same(case.live.loss(sequences()), by_hand(case.plain))

    def test_of_the_embedding_are_what_a_hook_by_hand_does(self, case):
        first = case.plain.base_model.get_submodule(f"{case.blocks}.0")

        def entering(_: Any, args: Any, kwargs: Any) -> Any:
            if args:
                return (moved(args[0]), *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": moved(kwargs["hidden_states"])}

        with first.register_forward_pre_hook(entering, with_kwargs=True):
            wanted = by_hand(case.plain)
        with case.live.edit(EMBED, moved):
            assert same(case.live.loss(sequences()), wanted)

    @pytest.mark.parametrize("name", ["embed", "attn.1", "mlp.1", "resid.1", "unembed"])
    def test_stand_at_the_site_and_move_what_comes_after(self, case, name):
        site = Site.parse(name)
        clean = case.live.read(sequences(), [site, UNEMBED])
        with case.live.edit(site, moved):
            found = case.live.read(sequences(), [site, UNEMBED])
        assert same(found[site], moved(clean[site]))
        assert not same(found[UNEMBED], clean[UNEMBED])

    def test_of_an_attention_that_is_scaled_add_what_they_say_to_the_stream(self, case):
        """Both halves are read by what they add, so an edit of one moves the stream by as much."""
        attn, resid = Site("attn", LAYERS - 1), Site("resid", LAYERS - 1)
        halves = [attn, Site("mlp", LAYERS - 1)]
        clean = case.live.read(sequences(), [*halves, resid])
        with case.live.edit(attn, lambda x: x + 1.0):
            found = case.live.read(sequences(), [*halves, resid])
        added = sum(found[site] - clean[site] for site in halves)
        assert torch.allclose(found[resid] - clean[resid], added, atol=1e-4)

    def test_that_change_nothing_leave_every_bit(self, gpt2):
        clean = gpt2.loss(sequences())
        with gpt2.edit(MIDDLE, lambda x: x), gpt2.edit(EMBED, torch.clone), gpt2.edit(UNEMBED, lambda x: x + 0.0):
            assert torch.equal(gpt2.loss(sequences()).nan_to_num(), clean.nan_to_num())

    def test_of_a_model_in_half_precision_see_float32_and_leave_every_bit(self, tmp_path):
        build_whole("llama").save_pretrained(tmp_path)
        live, seen = load(str(tmp_path), made(tmp_path, dtype="bfloat16"), "cpu"), []
        clean = live.loss(sequences())
        with live.edit(MIDDLE, lambda x: seen.append(x) or x):
            assert torch.equal(live.loss(sequences()).nan_to_num(), clean.nan_to_num())
        assert [x_Nd.dtype for x_Nd in (*seen, clean)] == [torch.float32] * 2

    def test_of_one_site_follow_each_other(self, gpt2):
        clean = gpt2.read(sequences(), [MIDDLE])[MIDDLE]
        with gpt2.edit(MIDDLE, lambda x: x + 1), gpt2.edit(MIDDLE, lambda x: 2 * x):
            assert same(gpt2.read(sequences(), [MIDDLE])[MIDDLE], 2 * (clean + 1))

    def test_see_the_real_tokens_alone_in_the_order_of_rows(self, gpt2):
        seen = []
        with gpt2.edit(MIDDLE, lambda x: seen.append(x) or x):
            gpt2.loss(sequences())
        alone = [gpt2.read([ids], [MIDDLE])[MIDDLE] for ids in sequences()]
        assert len(seen) == 1
        assert same(seen[0], torch.cat(alone))

    def test_may_train_on_what_they_saw(self, gpt2):
        """Nothing of the model's own mode without gradients sticks to rows."""
        seen = []
        with gpt2.edit(MIDDLE, lambda x: seen.append(x) or x):
            seen.append(gpt2.read(sequences(), [MIDDLE])[MIDDLE])
        weight = torch.ones(WIDTH, requires_grad=True)
        for x_Nd in (*seen, gpt2.loss(sequences()).nan_to_num()[:, None] * torch.ones(WIDTH)):
            (x_Nd * weight).sum().backward()
        assert weight.grad is not None


class TestHooks:
    def test_are_gone_after_an_edit_and_after_an_exception(self, case):
        before = hooks(case.live)
        clean = case.live.loss(sequences())

        def breaks(x_Nd: torch.Tensor) -> torch.Tensor:
            raise ValueError("no")

        for site in (EMBED, MIDDLE, UNEMBED):
            with pytest.raises(ValueError, match="no"), case.live.edit(site, breaks):
                case.live.loss(sequences())
            assert hooks(case.live) == before
        assert torch.equal(case.live.loss(sequences()).nan_to_num(), clean.nan_to_num())

    def test_an_edit_of_another_shape_is_refused(self, gpt2):
        before = hooks(gpt2)
        wanted = rf"an edit of resid.1 gave shape \[31, {WIDTH}\], wanted \[32, {WIDTH}\]"
        with pytest.raises(RunError, match=wanted), gpt2.edit(MIDDLE, lambda x: x[1:]):
            gpt2.loss(sequences())
        assert hooks(gpt2) == before


class TestWhatIsRefused:
    def test_another_models_weights(self, tmp_path):
        opened(tmp_path, build_whole("gpt2"))
        before = made(tmp_path)
        build_whole("gpt2", seed=1).save_pretrained(tmp_path)
        with pytest.raises(InputError, match=r"is not the .* that made the cache: the SHA-256 of its weights begins"):
            load(str(tmp_path), before, "cpu")
        with pytest.raises(InputError, match=r"the SHA-256 of its config begins .* bring that model back, or run"):
            load(str(tmp_path), made(tmp_path, config="0" * 64), "cpu")

    def test_the_loss_of_a_masked_language_model(self, tmp_path):
        live = opened(tmp_path, build_whole("bert"))
        assert live.read(sequences(), [MIDDLE])[MIDDLE].shape == (sum(LENGTHS), WIDTH)
        with pytest.raises(InputError, match=r"has no next-token loss: .*a masked language model.*name a decoder"):
            live.loss(sequences())

    def test_the_loss_of_a_model_without_a_head(self, tmp_path):
        live = opened(tmp_path, build(TEXT["llama"].config))
        assert live.d(MIDDLE) == WIDTH
        with pytest.raises(InputError, match="has no unembedding to take logits from: it was saved as LlamaModel"):
            live.loss(sequences())

    def test_a_model_of_images(self, tmp_path):
        save_vision(tmp_path)
        with pytest.raises(InputError, match="reads images: jobs run live models on token ids alone"):
            load(str(tmp_path), made(tmp_path), "cpu")

    def test_sites_that_are_no_hidden_state_or_not_there(self, gpt2):
        with pytest.raises(InputError, match=r"site mass.first.0 is worked out beside the forward"):
            gpt2.read(sequences(), [Site.parse("mass.first.0")])
        with (
            pytest.raises(InputError, match=r"has no site resid.9: it has blocks 0\.\.2"),
            gpt2.edit(Site("resid", 9), moved),
        ):
            pass
