"""New text with an attention cache is that of reading everything again at each token, also under edits."""

import numpy as np
import pytest
import torch

from storage import InputError, Site
from tests.workers.families import VOCABULARY, build, build_whole
from tests.workers.test_live import opened

MIDDLE = Site("resid", 1)
N_NEW, LENGTH = 6, 5
FAMILIES = ("gpt2", "llama", "gptj", "bloom", "granite", "falcon", "opt_projected", "mixtral")


@pytest.fixture(scope="module", params=FAMILIES)
def live(request, tmp_path_factory):
    return opened(tmp_path_factory.mktemp(request.param), build_whole(request.param))


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    return opened(tmp_path_factory.mktemp("gpt2"), build_whole("gpt2"))


def prompts(count=3, length=LENGTH):
    return list(np.random.default_rng(0).integers(3, VOCABULARY, (count, length)))


def everywhere(x_Nd):
    return x_Nd + torch.linspace(-1, 1, x_Nd.shape[1])


class FromLast:
    """Adds to the last prompt token's row and to those of all new tokens, when each token is read once."""

    def __call__(self, x_Nd):
        rows = range(LENGTH - 1, len(x_Nd), LENGTH) if len(x_Nd) == 3 * LENGTH else range(len(x_Nd))
        return x_Nd.index_add(0, torch.tensor(list(rows)), everywhere(torch.zeros(len(rows), x_Nd.shape[1])))


def read_again(live, edit=None):
    """The same text without a cache: all that there is is read for each new token; `edit` is of [B, T, d]."""
    ids = np.stack(prompts())
    for _ in range(N_NEW):
        length = ids.shape[1]

        def edited(x_Nd, length=length):
            return edit(x_Nd.view(3, length, -1)).reshape(x_Nd.shape) if edit else x_Nd

        with live.edit(MIDDLE, edited):
            rows = live.read(list(ids), [Site("unembed")])[Site("unembed")]
        logits = live.logits(rows.view(3, length, -1)[:, -1])
        ids = np.concatenate([ids, logits.argmax(-1, keepdim=True).numpy()], 1)
    return ids[:, LENGTH:]


def test_is_the_likeliest_token_each_time(live):
    np.testing.assert_array_equal(live.generate(prompts(), N_NEW), read_again(live))


def test_an_edit_of_all_tokens_holds_for_new_ones_too(live):
    with live.edit(MIDDLE, lambda x: 4 * everywhere(x)):
        found = live.generate(prompts(), N_NEW)
    again = read_again(live, lambda x_BTd: 4 * (x_BTd + torch.linspace(-1, 1, x_BTd.shape[-1])))
    np.testing.assert_array_equal(found, again)
    assert (found != live.generate(prompts(), N_NEW)).any()


def test_an_edit_from_the_last_prompt_token_on_leaves_those_before_it(live):
    with live.edit(MIDDLE, FromLast()):
        found = live.generate(prompts(), N_NEW)

    def from_last(x_BTd):
        late_T1 = (torch.arange(x_BTd.shape[1]) >= LENGTH - 1).float()[:, None]
        return x_BTd + late_T1 * torch.linspace(-1, 1, x_BTd.shape[-1])

    np.testing.assert_array_equal(found, read_again(live, from_last))


def test_each_token_is_read_once(gpt2):
    seen = []
    with gpt2.edit(MIDDLE, lambda x: seen.append(len(x)) or x):
        gpt2.generate(prompts(), N_NEW)
    assert seen == [3 * LENGTH, *[3] * (N_NEW - 1)]


def test_draws_are_those_of_the_seed_and_of_the_temperature(gpt2):
    one, again, other = (gpt2.generate(prompts(), N_NEW, 1.5, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()
    np.testing.assert_array_equal(gpt2.generate(prompts(), N_NEW, 1e-6), gpt2.generate(prompts(), N_NEW))


def test_draws_come_as_often_as_the_model_expects_them(gpt2):
    many = [prompts(1)[0]] * 3000
    drawn = gpt2.generate(many, 1, 1.0)[:, 0]
    rows = gpt2.read(many[:1], [Site("unembed")])[Site("unembed")]
    chances = gpt2.logits(rows[-1:])[0].softmax(-1)
    top = int(chances.argmax())
    assert float((drawn == top).mean()) == pytest.approx(float(chances[top]), abs=0.03)


class TestRefusals:
    def test_of_unequal_lengths(self, gpt2):
        with pytest.raises(InputError, match=r"found lengths \[2, 5\] .* call it once for each length"):
            gpt2.generate([*prompts(), np.array([3, 4])], 2)

    def test_beyond_the_context(self, gpt2):
        with pytest.raises(InputError, match=r"more than the \d+ that the model reads: ask for fewer"):
            gpt2.generate(prompts(), 10_000)

    def test_without_a_head(self, tmp_path):
        live = opened(tmp_path, build(build_whole("gpt2").config))
        with pytest.raises(InputError, match="has no unembedding"):
            live.generate(prompts(), 2)
