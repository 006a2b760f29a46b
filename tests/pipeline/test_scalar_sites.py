"""Attention mass and slices of the logits are sites like others: planned, harvested in the same pass, and claimed."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from storage import Cache, InputError, Lake, RunError
from storage.sequences import Sequences
from storage.sets import TokenSet, claim, read
from storage.site import Site
from storage.tokens import ROLES
from tests.pipeline import tiny
from tests.pipeline.test_harvest import assert_true
from tests.workers.families import TEXT, build
from workers.parity import certify

SCALARS = ("mass.first.0", "mass.first.1", "logits.answers")
ANSWERS = ("y", 7, "n")
CHATS = (
    [("system", "be brief"), ("user", "hello"), ("assistant", "hi"), ("user", "and?"), ("assistant", "no")],
    [("user", "no system here"), ("assistant", "yes"), ("tool", "4")],
    [("system", "s"), ("user", "long " * 20), ("assistant", "cut")],
)


@pytest.fixture(scope="module")
def speaker(tmp_path_factory):
    """A GPT-2 with its unembedding and a chat template."""
    return tiny.save_language_model(tmp_path_factory.mktemp("models") / "speaker", tied=False)


@pytest.fixture
def table(speaker, texts, in_memory):
    """A recipe of `tiny.TEXTS` with scalars among hidden states."""
    sites = ["resid.0", *SCALARS, "embed"]
    return tiny.table(speaker, texts, in_memory, unit=64, sites=sites, sets={"answers": list(ANSWERS)})


@pytest.fixture
def chats(speaker, tmp_path, in_memory):
    """A recipe of `CHATS`."""
    lines = [{"messages": [{"role": role, "content": content} for role, content in chat]} for chat in CHATS]
    tiny.write_lines(tmp_path / "docs" / "a.jsonl", lines)
    sites = [f"mass.{span}.1" for span in ("first", "system", "user", "assistant", "tool")]
    recipe = tiny.table(speaker, tmp_path, in_memory, unit=64, sites=[*sites, "resid.0"])
    recipe["corpora"]["docs"]["messages"] = "messages"
    return recipe


def _expected(folder, cache):
    """The scalars of every sequence from plain transformers, alone; {site: [rows, d]}."""
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    encode = AutoTokenizer.from_pretrained(folder)
    ids = [one if isinstance(one, int) else encode(one)["input_ids"][0] for one in ANSWERS]
    found = {site: [] for site in SCALARS}
    for segment in cache.segments:
        for sequence in Sequences(segment).touching(0, segment.plan.rows):
            ids_1T = torch.from_numpy(sequence.input_ids.astype(np.int64))[None]
            with torch.no_grad():
                out = model(input_ids=ids_1T, output_attentions=True)
            logits_TV = out.logits[0]
            found["logits.answers"].append(torch.cat([logits_TV[:, ids], logits_TV.logsumexp(-1, keepdim=True)], -1))
            for layer, a_1HTT in enumerate(out.attentions):
                found[f"mass.first.{layer}"].append(a_1HTT[0, :, :, 0].T)
    return {site: torch.cat(pieces).numpy() for site, pieces in found.items()}


class TestHarvest:
    @pytest.mark.parametrize("batch_tokens", [1, 4096])
    def test_rows_are_plain_transformers_for_each_sequence_alone(
        self, table, speaker, texts, short_shards, batch_tokens
    ):
        table["pool"]["batch_tokens"] = batch_tokens
        cache, _ = tiny.harvest(table, texts)
        for site, wanted_Nd in _expected(speaker, cache).items():
            np.testing.assert_allclose(cache.site(site)[:], wanted_Nd, atol=1e-5, err_msg=site)

    @pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
    def test_scalars_are_float32_beside_hidden_states_of_any_dtype(self, table, texts, short_shards, dtype):
        cache, _ = tiny.harvest(table, texts)
        table["caches"]["texts"]["dtype"], table["lake"] = dtype, f"{table['lake']}-half"
        half, _ = tiny.harvest(table, texts)
        assert {site: half.site(site).dtype.name for site in ("embed", "resid.0")} == dict.fromkeys(
            ("embed", "resid.0"), dtype
        )
        for site in SCALARS:
            assert half.site(site).dtype.name == "float32"
            np.testing.assert_allclose(half.site(site)[:], cache.site(site)[:], atol=1e-6)

    def test_sites_of_all_widths_come_from_one_pass(self, table, texts, short_shards):
        cache, progress = tiny.harvest(table, texts)
        assert {str(site): cache.site(site).d for site in cache.sites} == {
            "embed": 32, "mass.first.0": 4, "resid.0": 32, "mass.first.1": 4, "logits.answers": 4,
        }  # fmt: skip
        table["caches"]["texts"]["sites"], table["lake"] = ["embed", "resid.0"], f"{table['lake']}-plain"
        plain, passes = tiny.harvest(table, texts)
        for site in plain.sites:
            np.testing.assert_array_equal(plain.site(site)[:], cache.site(site)[:])
        (segment,) = cache.segments
        units = [segment.plan.unit_range(unit) for unit in range(segment.plan.n_units)]
        touching = sum(len(one.input_ids) for unit in units for one in Sequences(segment).touching(*unit))
        assert progress.forward_tokens == touching
        assert passes.forward_tokens <= touching

    def test_scalars_are_added_to_a_cache_that_is_there(self, table, speaker, texts, short_shards):
        table["caches"]["texts"]["sites"] = list(tiny.SITES)
        first, _ = tiny.harvest(table, texts)
        table["caches"]["texts"]["sites"] += SCALARS
        second, _ = tiny.harvest(table, texts)
        assert first.id == second.id
        assert_true(second, speaker)
        for site, wanted_Nd in _expected(speaker, second).items():
            np.testing.assert_allclose(second.site(site)[:], wanted_Nd, atol=1e-5, err_msg=site)

    def test_the_certificate_covers_them(self, table, speaker, texts):
        cache, _ = tiny.harvest(table, texts)
        parity = certify(cache, str(speaker), 40).sites
        assert [one.site for one in parity] == [str(site) for site in cache.sites]
        assert all(one.good and one.rows > 100 for one in parity)


class TestRoles:
    def test_mass_of_a_role_is_what_eager_attention_gives_its_tokens(self, chats, speaker, tmp_path):
        cache, _ = tiny.harvest(chats, tmp_path)
        model = AutoModelForCausalLM.from_pretrained(speaker, attn_implementation="eager").eval()
        (segment,) = cache.segments
        for sequence in Sequences(segment).touching(0, segment.plan.rows):
            with torch.no_grad():
                ids_1T = torch.from_numpy(sequence.input_ids.astype(np.int64))[None]
                a_HTT = model(input_ids=ids_1T, output_attentions=True).attentions[1][0]
            for role in ROLES[1:]:
                held_T = torch.from_numpy(sequence.roles == ROLES.index(role))
                stored_TH = cache.site(f"mass.{role}.1")[sequence.start : sequence.start + len(held_T)]
                np.testing.assert_allclose(stored_TH, a_HTT[:, :, held_T].sum(-1).T, atol=1e-6)

    def test_a_sequence_without_the_role_has_none_of_its_mass(self, chats, tmp_path):
        cache, _ = tiny.harvest(chats, tmp_path)
        documents_N = cache.tokens.documents(slice(None))
        mass_N = {role: cache.site(f"mass.{role}.1")[:].max(axis=1) for role in ROLES[1:]}
        assert (mass_N["system"][documents_N == 1] == 0).all()
        assert (mass_N["tool"][documents_N != 1] == 0).all()
        assert mass_N["system"][documents_N == 0].max() > 0
        assert mass_N["tool"].max() > 0

    def test_a_chat_whose_roles_cannot_be_told_is_refused_by_name(self, chats, tmp_path):
        """One that holds the marks by which messages are found."""
        lines = [
            {"messages": [{"role": "user", "content": content}]}
            for content in ("plain", "\ue0001\ue001", "plain again")
        ]
        tiny.write_lines(tmp_path / "docs" / "a.jsonl", lines)
        with pytest.raises(RunError, match=r"mass of assistant, .*, document 'a\.jsonl:1': .* leave the document out"):
            tiny.harvest(chats, tmp_path)

    def test_the_certificate_covers_them(self, chats, speaker, tmp_path):
        cache, _ = tiny.harvest(chats, tmp_path)
        assert all(one.good for one in certify(cache, str(speaker), 100).sites)


class TestClaim:
    def test_the_set_is_written_once_with_its_tokens(self, table, texts):
        cache, _ = tiny.harvest(table, texts)
        held = read(cache.folder, "answers")
        assert held.texts == ("y", "", "n")
        assert held.ids[1] == 7
        with pytest.raises(RunError, match=r"sets/other\.json is not there"):
            read(cache.folder, "other")

    def test_other_tokens_under_its_name_are_refused_before_anything_runs(self, table, texts):
        cache, _ = tiny.harvest(table, texts)
        table["caches"]["texts"]["sets"] = {"answers": ["y", "n"]}
        with pytest.raises(InputError, match=r"holds logits\.answers of tokens .*'y', 7, .* give it another name"):
            tiny.harvest(table, texts)
        table["caches"]["texts"]["sets"] = {"answers": list(read(cache.folder, "answers").ids)}
        tiny.harvest(table, texts)

    def test_whoever_claims_first_is_right(self, in_memory):
        folder = Lake(in_memory).folder / "caches/a"
        claim(folder, "x", TokenSet(ids=(1, 2), texts=("", "")))
        claim(folder, "x", TokenSet(ids=(1, 2), texts=("a", "b")))
        with pytest.raises(InputError, match=r"the recipe's set 'x' is 2, 1"):
            claim(folder, "x", TokenSet(ids=(2, 1), texts=("", "")))

    def test_a_set_is_no_part_of_the_cache_s_identity(self, table, texts):
        cache, _ = tiny.harvest(table, texts)
        del table["caches"]["texts"]["sets"]
        table["caches"]["texts"]["sites"] = ["resid.0"]
        assert tiny.harvest(table, texts)[0].id == cache.id

    def test_the_object_is_plain_json(self, table, texts):
        cache, _ = tiny.harvest(table, texts)
        said = json.loads(cache.folder.read("sets/answers.json"))
        assert set(said) == {"ids", "texts", "crc32c"}
        assert isinstance(Cache(cache.folder).site("logits.answers").dtype, np.dtype)


REFUSALS = {
    "a set that is not declared": (
        {"sites": ["logits.anwers"], "sets": {"answers": [5]}},
        (r"caches\.texts", r"logits\.anwers", r"did you mean answers\? There are: answers"),
    ),
    "no set at all": ({"sites": ["logits.a"], "sets": {}}, ("there are: none", "declare a = ", "under sets")),
    "an empty set": ({"sites": ["logits.a"], "sets": {"a": []}}, (r"sets\.a is empty", "at least one")),
    "a text of two tokens": (
        {"sites": ["logits.a"], "sets": {"a": ["no"]}},
        (r"caches\.texts\.sets\.a", "'no' is 2 tokens", "'n' ", "'o' ", "by its id"),
    ),
    "an id outside the vocabulary": (
        {"sites": ["logits.a"], "sets": {"a": [260]}},
        (r"caches\.texts\.sets\.a", r"260 is none of the model's 0\.\.259"),
    ),
    "a token twice": ({"sites": ["logits.a"], "sets": {"a": [5, 5]}}, (r"sets\.a", "stands there already", "drop it")),
    "a number with a fraction": (
        {"sites": ["logits.a"], "sets": {"a": [1.5]}},
        (r"caches\.texts\.sets", r"Expected .int . str., got .float."),
    ),
    "a layer out of range": (
        {"sites": ["mass.first.2"]},
        (r"caches\.texts\.sites", r"no site mass\.first\.2", r"blocks 0\.\.1"),
    ),
    "an unknown span": (
        {"sites": ["mass.sytem.1"]},
        (r"caches\.texts\.sites", "unknown span 'sytem'", r"did you mean system\? There are: first, system, user"),
    ),
    "a role where there are no chats": (
        {"sites": ["mass.user.1"]},
        (r"caches\.texts\.sites", r"mass\.user\.1", "kind = 'documents' cuts no chats", r"name mass\.first\.1"),
    ),
    "a site that none knows": ({"sites": ["mass.1"]}, ("unknown site 'mass.1'", r"mass\.<span>\.L, logits\.<set>")),
}


class TestRefusals:
    @pytest.mark.parametrize("what", REFUSALS)
    def test_what_cannot_be_is_refused_while_planning(self, table, texts, what):
        changes, says = REFUSALS[what]
        table["caches"]["texts"] |= changes
        self._refused(table, texts, says)

    def test_a_model_without_unembedding(self, table, decoder, texts):
        table["models"]["model"]["name"] = str(decoder)
        self._refused(table, texts, (r"caches\.texts\.sets\.answers", "saved as GPT2Model", "language-model head"))

    def test_a_model_whose_attention_is_its_own(self, texts, in_memory, tmp_path):
        build(TEXT["bloom"].config).save_pretrained(tmp_path / "bloom")
        tiny.write_lines(texts / "docs" / "a.jsonl", [{"ids": [3, 4]}])
        recipe = tiny.table(tmp_path / "bloom", texts, in_memory, sites=["mass.first.0"])
        recipe["corpora"]["docs"]["input_ids"] = "ids"
        self._refused(recipe, texts, (r"caches\.texts\.sites", r"mass\.first\.0: its attention is its own"))

    @pytest.mark.parametrize("site", ["mass.first.0", "logits.answers"])
    def test_a_vocabulary(self, table, texts, site):
        table["corpora"]["docs"] = {"vocabulary": True}
        table["caches"]["texts"]["sites"] = [site]
        self._refused(table, texts, (r"a vocabulary has the sites embed and unembed", site))

    @pytest.mark.parametrize("site", ["mass.first.0", "logits.answers"])
    def test_images(self, vision, texts, in_memory, site):
        tiny.write_pictures(texts / "pictures", 2)
        recipe = tiny.table(vision, texts, in_memory, sites=[site], sets={"answers": [5]})
        recipe["corpora"]["docs"] = {"images": str(texts / "pictures" / "*.png")}
        self._refused(recipe, texts, (site, "its rows are of images", "leave it out"))

    def _refused(self, recipe, base, says):
        with pytest.raises(InputError) as caught:
            tiny.harvest(recipe, base)
        for part in says:
            assert caught.match(part)
        assert not Lake(recipe["lake"]).caches()


@pytest.mark.parametrize(
    ("text", "site"),
    [
        ("mass.system.11", Site("mass", 11, "system")),
        ("mass.first.0", Site("mass", 0, "first")),
        ("logits.answers", Site("logits", path="answers")),
        ("logits.a_b-2", Site("logits", path="a_b-2")),
    ],
)
def test_a_scalar_site_is_one_string(text, site):
    assert Site.parse(text) == site
    assert str(site) == text


@pytest.mark.parametrize("text", ["mass.first", "mass.0", "logits.", "logits.a/b", "logits.../x", "mass.First.0"])
def test_what_is_no_scalar_site_is_refused(text):
    with pytest.raises(ValueError, match="unknown site"):
        Site.parse(text)


def test_sites_sort_by_depth():
    names = ["embed", "mass.first.0", "attn.0", "mlp.0", "resid.0", "mass.first.1", "mass.user.1", "resid.1",
             "unembed", "logits.a", "logits.b", "module:h.0"]  # fmt: skip
    assert list(map(str, sorted(map(Site.parse, reversed(names))))) == names
