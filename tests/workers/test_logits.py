"""Logits of chosen tokens are those of the checkpoint's own forward, whatever its head does."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf

from storage.errors import InputError
from storage.site import Site
from tests.pipeline.tiny import save_tokenizer
from tests.workers.families import LAYERS, TEXT, VISION, VOCABULARY, WIDTH, build, build_whole
from workers import logits
from workers.model import LM, ModelSpec, load

UNEMBED = Site("unembed")
SETS = {Site("logits", path="answers"): (5, 9, 3), Site("logits", path="other"): (9, VOCABULARY - 1)}
LENGTHS = (12, 7, 1)


@dataclass(frozen=True)
class Case:
    folder: Path
    lm: LM
    plain: Any


@pytest.fixture(scope="module", params=TEXT)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp(request.param)
    whole = build_whole(request.param)
    whole.save_pretrained(folder)
    return Case(folder, load(ModelSpec(source=str(folder)), with_head=True), whole)


@pytest.fixture(scope="module")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A LLaMA with a tokenizer of bytes, of more entries than the model."""
    folder = tmp_path_factory.mktemp("llama")
    build_whole("llama").save_pretrained(folder)
    save_tokenizer(folder)
    return str(folder)


@pytest.fixture
def save(tmp_path: Path) -> Callable[[Any], str]:
    def saved(model: Any) -> str:
        model.save_pretrained(tmp_path / "model")
        return str(tmp_path / "model")

    return saved


def _inputs() -> dict[str, torch.Tensor]:
    ids_BT = torch.randint(3, VOCABULARY, (3, 12), generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids_BT, "attention_mask": (torch.arange(12) < torch.tensor(LENGTHS)[:, None]).long()}


def _expected(case: Case, row: int, length: int, ids: tuple[int, ...]) -> torch.Tensor:
    """[T, K + 1] from one full forward over the sequence alone."""
    with torch.no_grad():
        logits_TV = case.plain(input_ids=_inputs()["input_ids"][row : row + 1, :length]).logits[0]
    return torch.cat([logits_TV[:, list(ids)], logits_TV.double().logsumexp(-1, keepdim=True)], dim=-1)


def test_logits_are_those_of_the_plain_forward(case: Case):
    read = case.lm.read(_inputs(), [UNEMBED])[UNEMBED]
    for row, length in enumerate(LENGTHS):
        found = case.lm.logits(read[row, :length], SETS)
        assert list(found) == list(SETS)
        for site, ids in SETS.items():
            wanted_TK = _expected(case, row, length, ids)
            assert found[site].dtype == torch.float32
            assert found[site].shape == (length, len(ids) + 1)
            assert ((found[site] - wanted_TK).abs().amax(-1) <= 1e-5 * wanted_TK.norm(dim=-1)).all(), site


def test_the_last_column_makes_probabilities_of_the_others(case: Case):
    every = {Site("logits", path="all"): tuple(range(VOCABULARY))}
    x_Nd = case.lm.read(_inputs(), [UNEMBED])[UNEMBED][0]
    (scores_NK,) = case.lm.logits(x_Nd, every).values()
    assert ((scores_NK[:, :-1] - scores_NK[:, -1:]).exp().sum(-1) - 1).abs().max() < 1e-4


def test_hidden_states_are_the_same_bits_with_the_head_and_without(case: Case):
    sites = [Site("embed"), Site("attn", 1), Site("resid", LAYERS - 1), UNEMBED]
    body = load(ModelSpec(source=str(case.folder))).read(_inputs(), sites)
    case.lm.logits(case.lm.read(_inputs(), [UNEMBED])[UNEMBED][0], SETS)
    whole = case.lm.read(_inputs(), sites)
    assert all(torch.equal(body[site], whole[site]) for site in sites)


class TestBlocks:
    def test_rows_are_unembedded_in_blocks_of_bounded_size(self, language_model, monkeypatch):
        lm = load(ModelSpec(source=language_model), with_head=True)
        x_Nd = torch.randn(23, WIDTH)
        at_once = lm.logits(x_Nd, SETS)
        blocks: list[int] = []
        lm.whole.lm_head.register_forward_hook(lambda _, args, out: blocks.append(out.shape[1]))
        monkeypatch.setattr(logits, "_BLOCK_BYTES", 5 * 4 * VOCABULARY)
        found = lm.logits(x_Nd, SETS)
        assert blocks == [5, 5, 5, 5, 3]
        assert all((found[site] - at_once[site]).abs().max() < 1e-5 for site in SETS)

    def test_no_row_gives_no_row(self, language_model):
        lm = load(ModelSpec(source=language_model), with_head=True)
        assert [one.shape for one in lm.logits(torch.zeros(0, WIDTH), SETS).values()] == [(0, 4), (0, 3)]

    def test_half_precision_is_widened_before_the_sum(self, language_model):
        lm = load(ModelSpec(source=language_model, dtype="bfloat16"), with_head=True)
        (scores_NK, _) = lm.logits(torch.randn(4, WIDTH).bfloat16(), SETS).values()
        assert torch.equal(scores_NK[:, :-1], scores_NK[:, :-1].bfloat16().float())
        assert not torch.equal(scores_NK[:, -1], scores_NK[:, -1].bfloat16().float())

    def test_the_body_is_itself_again(self, language_model):
        lm = load(ModelSpec(source=language_model), with_head=True)
        lm.logits(torch.randn(4, WIDTH), SETS)
        assert "forward" not in vars(lm.module)
        with pytest.raises(RuntimeError):
            lm.logits(torch.randn(4, WIDTH + 1), SETS)
        assert "forward" not in vars(lm.module)

    def test_without_its_head_nothing_of_it_is_loaded(self, language_model):
        assert load(ModelSpec(source=language_model)).whole is None


class TestTokenSet:
    def test_texts_and_ids_are_kept_in_their_order(self, language_model):
        found = logits.token_set(language_model, None, ["b", 7, "<eos>", "a"])
        assert found.texts == ("b", "", "<eos>", "a")
        assert found.ids[1:3] == (7, 1)
        assert found.ids[0] == found.ids[3] + 1

    @pytest.mark.parametrize(
        ("words", "why"),
        [
            (["yes"], r"'yes' is 3 tokens .* wanted one: it becomes 'y' \(\d+\), 'e' \(\d+\), 's' \(\d+\)"),
            ([""], r"'' is 0 tokens .* it becomes nothing"),
            ([5, -1], r"token id -1 is none of the model's 0\.\.96"),
            ([VOCABULARY], rf"token id {VOCABULARY} is none of the model's 0\.\.96"),
            (["a", "~"], rf"token id {VOCABULARY} is none of the model's 0\.\.96"),
            ([5, 9, 5], r"5 is token 5, which stands there already: drop it"),
            ([1, "<eos>"], r"'<eos>' is token 1, which stands there already"),
        ],
    )
    def test_what_is_not_one_token_of_the_model_is_refused(self, language_model, words, why):
        with pytest.raises(InputError, match=why):
            logits.token_set(language_model, None, words)

    def test_ids_need_no_tokenizer_and_texts_do(self, case):
        assert logits.token_set(str(case.folder), None, [5, 3]).ids == (5, 3)
        with pytest.raises(InputError, match="has no tokenizer"):
            logits.token_set(str(case.folder), None, ["a"])


class TestHeadless:
    def test_a_body_alone(self, save):
        folder = save(build(TEXT["llama"].config))
        with pytest.raises(InputError, match=r"saved as LlamaModel, it gives hidden states alone; name a checkpoint"):
            logits.head(folder, "")

    def test_a_classifier(self, save):
        with pytest.raises(InputError, match=r"saved as BertForSequenceClassification, it has no output embedding"):
            logits.head(save(hf.BertForSequenceClassification(TEXT["bert"].config)), "")

    def test_images(self, save):
        with pytest.raises(InputError, match=r"has no unembedding .* saved as ViTModel"):
            logits.head(save(build(VISION["vit"].config)), "")

    def test_a_config_that_names_no_class(self, tmp_path):
        hf.LlamaConfig(hidden_size=WIDTH, num_attention_heads=4, num_hidden_layers=2).save_pretrained(tmp_path)
        with pytest.raises(InputError, match=r"saved as no class, it gives hidden states alone"):
            logits.head(str(tmp_path), "")

    def test_a_head_that_gives_other_logits(self, save):
        """Its logits are two, for the pair of sentences, and those of tokens have another name."""
        with pytest.raises(InputError, match=r"saved as BertForPreTraining, .*'?logits'?"):
            logits.head(save(hf.BertForPreTraining(TEXT["bert"].config)), "")
