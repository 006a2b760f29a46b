"""A harvested cache holds what the model gives for each sequence alone, each row once, whatever the batching."""

import numpy as np
import pytest
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from storage.sequences import Sequences
from tests.pipeline import tiny

MODELS = ("decoder", "encoder")


@pytest.fixture(params=MODELS)
def model(request):
    return request.getfixturevalue(request.param)


def assert_true(cache, folder, tolerance=1e-5):
    """Every row of every site is what plain transformers gives for its sequence alone."""
    expected = tiny.expected_rows(folder, cache)
    for site in tiny.SITES:
        assert tiny.worst(cache.site(site)[:], expected[site]) <= tolerance, site


class TestRows:
    def test_sum_of_lengths_is_the_rows_stored(self, model, texts, in_memory, short_shards):
        cache, _ = tiny.harvest(tiny.table(model, texts, in_memory, unit=64), texts)
        lengths = cache.tokens.table(["length"])["length"].to_numpy()
        assert lengths.sum() == cache.n_rows == len(tiny.expected_tokens(tiny.TEXTS, model.name == "encoder"))
        assert {cache.site(site).shape for site in tiny.SITES} == {(cache.n_rows, tiny.WIDTH)}

    def test_every_row_maps_to_its_document_position_token_and_text(self, model, texts, in_memory, short_shards):
        cache, _ = tiny.harvest(tiny.table(model, texts, in_memory, unit=64), texts)
        index, every = cache.tokens, slice(None)
        found = zip(
            index.documents(every).tolist(),
            index.positions(every).tolist(),
            index.ids(every).tolist(),
            index.strings(every),
            index.offsets(every)[0].tolist(),
            strict=True,
        )
        assert list(found) == tiny.expected_tokens(tiny.TEXTS, model.name == "encoder")
        assert list(index.document_ids) == [f"a.jsonl:{n}" for n in range(len(tiny.TEXTS))]

    def test_documents_without_a_token_have_no_row_and_keep_their_number(self, decoder, texts, in_memory):
        cache, _ = tiny.harvest(tiny.table(decoder, texts, in_memory), texts)
        empty = [n for n, text in enumerate(tiny.TEXTS) if not text]
        assert cache.tokens.n_documents == len(tiny.TEXTS)
        assert [len(cache.tokens.document_rows(n)) for n in empty] == [0, 0]

    def test_no_row_is_missed_or_taken_twice_at_the_edges_of_units(self, decoder, texts, in_memory, short_shards):
        cache, progress = tiny.harvest(tiny.table(decoder, texts, in_memory, unit=64), texts)
        (segment,) = cache.segments
        marks = segment.marks(cache.sites[0])
        assert len(marks) > 10
        assert sum(mark.rows for mark in marks) == cache.n_rows
        assert [shard.shard for mark in marks for shard in mark.shards] == list(range(-(-cache.n_rows // 16)))
        touching = [
            sum(len(one.input_ids) for one in Sequences(segment).touching(*segment.plan.unit_range(unit)))
            for unit in range(segment.plan.n_units)
        ]
        assert progress.forward_tokens == sum(touching)


class TestValues:
    @pytest.mark.parametrize("batch_tokens", [1, 64, 4096])
    @pytest.mark.parametrize("unit", [64, 4096])
    def test_rows_are_plain_transformers_for_each_sequence_alone(
        self, model, texts, in_memory, short_shards, batch_tokens, unit
    ):
        recipe = tiny.table(model, texts, in_memory, unit=unit)
        recipe["pool"]["batch_tokens"] = batch_tokens
        assert_true(tiny.harvest(recipe, texts)[0], model)

    @pytest.mark.parametrize("save", [tiny.save_decoder, tiny.save_encoder])
    def test_rows_do_not_depend_on_the_tokenizers_padding_side(self, save, texts, in_memory, tmp_path):
        folder = save(tmp_path / "model", side="left")
        assert AutoTokenizer.from_pretrained(folder).padding_side == "left"
        assert_true(tiny.harvest(tiny.table(folder, texts, in_memory), texts)[0], folder)

    def test_sites_of_several_widths_have_shards_of_their_own_lengths(self, decoder, texts, in_memory, short_shards):
        sites = ["module:h.0.mlp.c_fc", *tiny.SITES]
        cache, _ = tiny.harvest(tiny.table(decoder, texts, in_memory, unit=64, sites=sites), texts)
        assert_true(cache, decoder)
        x_ND, wide_NF = cache.site("module:h.0.mlp.c_fc"), AutoModel.from_pretrained(decoder).h[0].mlp.c_fc
        assert x_ND.d == wide_NF.nf == 4 * tiny.WIDTH
        assert x_ND.chunk == 1
        assert np.isfinite(x_ND[:]).all()

    @pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
    def test_a_cache_of_16_bits_is_the_float32_cache_rounded(self, decoder, texts, in_memory, short_shards, dtype):
        recipe = tiny.table(decoder, texts, in_memory, unit=64)
        recipe["pool"]["batch_tokens"] = 1  # batches follow the shards' lengths, and the last bits follow the batches
        whole, _ = tiny.harvest(recipe, texts)
        recipe["caches"]["texts"]["dtype"], recipe["lake"] = dtype, f"{in_memory}-half"
        half, _ = tiny.harvest(recipe, texts)
        for site in tiny.SITES:
            stored = half.site(site)
            assert stored.dtype.name == dtype
            np.testing.assert_array_equal(stored[:], whole.site(site)[:].astype(stored.dtype))


class TestTokenisations:
    def test_packed_windows_are_run_whole(self, decoder, texts, in_memory, short_shards):
        recipe = tiny.table(decoder, texts, in_memory, unit=64, context=24, tokenise={"kind": "packed"})
        cache, _ = tiny.harvest(recipe, texts)
        lengths = np.bincount(cache.tokens.sequences(slice(None)))
        assert (lengths[:-1] == 24).all()
        assert 0 < lengths[-1] <= 24
        alone = [ids for text in tiny.TEXTS for ids in (*_ids(decoder, text), 1)]
        assert cache.tokens.ids(slice(None)).tolist() == alone
        assert_true(cache, decoder)

    def test_chats_are_written_by_the_models_template(self, decoder, in_memory, tmp_path, short_shards):
        chats = [[{"role": "user", "content": "hi " * n}, {"role": "assistant", "content": "yes"}] for n in (1, 30, 0)]
        tiny.write_lines(tmp_path / "docs" / "a.jsonl", [{"messages": chat} for chat in chats])
        recipe = tiny.table(decoder, tmp_path, in_memory, unit=64)
        recipe["corpora"]["docs"]["messages"] = "messages"
        cache, _ = tiny.harvest(recipe, tmp_path)
        written = "".join(f"<{m['role']}>{m['content']}\n" for chat in chats for m in chat)
        assert "".join(cache.tokens.strings(slice(None))) == written
        assert_true(cache, decoder)

    def test_ready_ids_are_run_as_they_are(self, encoder, in_memory, tmp_path, short_shards):
        ids = [[5, 6, 7], [], [9], list(range(4, 204))]
        tiny.write_lines(tmp_path / "docs" / "a.jsonl", [{"ids": one} for one in ids])
        recipe = tiny.table(encoder, tmp_path, in_memory, unit=64)
        recipe["corpora"]["docs"]["input_ids"] = "ids"
        cache, _ = tiny.harvest(recipe, tmp_path)
        assert cache.tokens.ids(slice(None)).tolist() == [token for one in ids for token in one]
        assert cache.tokens.n_sequences == 3 + 4
        assert_true(cache, encoder)

    @pytest.mark.parametrize("batch_tokens", [1, 4096])
    def test_an_image_has_a_row_for_each_patch(self, vision, in_memory, tmp_path, short_shards, batch_tokens):
        tiny.write_pictures(tmp_path / "pictures", 9)
        recipe = tiny.table(vision, tmp_path, in_memory, unit=16)
        recipe["corpora"]["docs"] = {"images": str(tmp_path / "pictures" / "*.png")}
        recipe["pool"]["batch_tokens"] = batch_tokens
        cache, _ = tiny.harvest(recipe, tmp_path)
        assert cache.n_rows == 9 * 9
        assert cache.tokens.ids(slice(None)).tolist() == list(range(9)) * 9
        expected = [tiny.plain_picture(vision, tmp_path / "pictures" / f"{n}.png") for n in range(9)]
        for site in tiny.SITES:
            truth_ND = np.concatenate([one[site] for one in expected])
            assert tiny.worst(cache.site(site)[:], truth_ND) <= 1e-5, site


class TestVocabulary:
    @pytest.mark.parametrize("tied", [True, False])
    def test_rows_are_the_models_own_tables(self, in_memory, tmp_path, short_shards, tied):
        folder = tiny.save_language_model(tmp_path / "model", tied)
        recipe = tiny.table(folder, tmp_path, in_memory, sites=["embed", "unembed"], unit=64)
        recipe["corpora"]["docs"] = {"vocabulary": True}
        cache, _ = tiny.harvest(recipe, tmp_path)
        model = AutoModelForCausalLM.from_pretrained(folder)
        embed_VD, unembed_VD = (
            one().weight.detach().numpy() for one in (model.get_input_embeddings, model.get_output_embeddings)
        )
        assert cache.tokens.ids(slice(None)).tolist() == list(range(260))
        np.testing.assert_array_equal(cache.site("embed")[:], embed_VD)
        np.testing.assert_array_equal(cache.site("unembed")[:], unembed_VD)
        assert np.array_equal(embed_VD, unembed_VD) == tied


def _ids(folder, text):
    return AutoTokenizer.from_pretrained(folder)(text, add_special_tokens=False)["input_ids"]
