"""A certificate calls every site of a true cache good, whatever the family of the model, and one altered row bad."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from storage import Lake
from storage.segment import part_name
from storage.sets import claim, read
from storage.value import decode_signed
from storage.writer import UnitWriter
from tests.pipeline import tiny
from tests.workers.families import LAYERS, VOCABULARY, build_whole
from workers.mass import Attention
from workers.parity import Certificate, certify, tolerance
from workers.sketch import sketch

FAMILIES = (
    "gpt2", "gptj", "llama", "mistral", "mixtral", "qwen2", "qwen3", "gemma2", "gemma3", "olmo2", "granite", "cohere",
    "gpt_neox", "phi", "opt", "bloom", "falcon_new", "mpt", "bert", "modernbert",
)  # fmt: skip
STREAM = ("embed", "resid.0", "resid.1", "attn.1", "mlp.1", "unembed")
HALVES = [("llama", "bfloat16"), ("llama", "float16"), ("gemma2", "bfloat16"), ("bert", "bfloat16")]
LENGTHS = (12, 3, 1, 9, 12, 5, 2, 7)
_ROW = LENGTHS[0] + 1
"""The second of a sequence: of the few that see its first token through a window and differ from the row before."""


def _recipe(family, folder, lake, **cache):
    """Ready ids, the family's model with its head, and every kind of site that it has."""
    build_whole(family).save_pretrained(folder / "model")
    draw = np.random.default_rng(0)
    ids = [draw.integers(3, VOCABULARY, length).tolist() for length in LENGTHS]
    tiny.write_lines(folder / "docs" / "a.jsonl", [{"ids": one} for one in ids])
    sites, attentions = [*STREAM, "logits.some"], sketch(str(folder / "model"), "").anatomy.attentions
    if all(isinstance(one, Attention) for one in attentions):
        sites += [f"mass.first.{layer}" for layer in range(LAYERS)]
    recipe = tiny.table(folder / "model", folder, lake, sites=sites, sets={"some": [5, 90]}, unit=64, **cache)
    recipe["corpora"]["docs"]["input_ids"] = "ids"
    return recipe


def _altered(cache, lake, names):
    """A copy of the cache in another lake, written anew, in which one row of these sites is the row before it."""
    copy, (segment,) = lake.create(cache.record), cache.segments
    claim(copy.folder, "some", read(cache.folder, "some"))
    written = copy.next_segment()
    written.claim(segment.claimed)
    for part in range(len(segment.claimed.parts)):
        written.folder.create(part_name(part), segment.folder.read(part_name(part)))
    written.fix()
    for site in cache.sites:
        x_ND = cache.site(site)[:].copy()
        if str(site) in names:
            x_ND[_ROW] = x_ND[_ROW - 1]
        _write(written, site, segment.read_seal(site).layout, x_ND)
    return lake.cache(copy.id)


def _write(segment, site, layout, x_ND):
    segment.create_array(site, layout)
    with ThreadPoolExecutor(1) as executor:
        for unit in range(segment.plan.n_units):
            writer = UnitWriter(segment, site, layout, unit, executor, [])
            writer.put(0, x_ND)
            writer.finish("attempt", "worker")
    segment.seal(site, layout)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_site_of_a_true_cache_is_good_and_an_altered_row_is_not(family, in_memory, tmp_path):
    cache, _ = tiny.harvest(_recipe(family, tmp_path, in_memory), tmp_path)
    found = certify(cache, str(tmp_path / "model"), 200)
    assert found.sequences == len(LENGTHS)
    assert {one.site for one in found.sites} == set(map(str, cache.sites))
    assert all(one.good and one.rows == sum(LENGTHS) for one in found.sites), found
    names = {"resid.0", "logits.some", str(cache.sites[1])}
    altered = _altered(cache, Lake(f"{in_memory}-altered"), names)
    assert {one.site for one in certify(altered, str(tmp_path / "model"), 200).sites if not one.good} == names


@pytest.mark.parametrize(("family", "dtype"), HALVES)
def test_a_forward_in_half_precision_has_its_own_tolerance(family, dtype, in_memory, tmp_path):
    recipe = _recipe(family, tmp_path, in_memory, dtype=dtype)
    recipe["models"]["model"]["dtype"] = dtype
    cache, _ = tiny.harvest(recipe, tmp_path)
    assert all(one.good for one in certify(cache, str(tmp_path / "model"), 200).sites)
    altered = _altered(cache, Lake(f"{in_memory}-altered"), {"resid.1"})
    bad = [one.site for one in certify(altered, str(tmp_path / "model"), 200).sites if not one.good]
    assert bad == ["resid.1"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int8"])
def test_rounding_to_the_stored_type_is_within_its_tolerance(dtype, in_memory, tmp_path):
    cache, _ = tiny.harvest(_recipe("llama", tmp_path, in_memory, dtype=dtype), tmp_path)
    found = certify(cache, str(tmp_path / "model"), 200).sites
    assert all(one.good for one in found), found
    by_site = {one.site: one.tolerance for one in found}
    assert by_site["resid.0"] == tolerance(cache.sites[0], dtype, "float32")
    assert by_site["logits.some"] == by_site["mass.first.0"] == 1e-5


def test_the_certificate_is_kept_beside_the_seals_with_the_largest_difference_of_each_site(in_memory, tmp_path):
    cache, _ = tiny.harvest(_recipe("llama", tmp_path, in_memory), tmp_path)
    made = certify(cache, str(tmp_path / "model"), 200)
    (name,) = cache.folder.names("certificates")
    kept = decode_signed(cache.folder.read(f"certificates/{name}"), Certificate, name)
    assert kept == made
    assert all(0 <= one.relative <= one.tolerance for one in kept.sites)
    assert torch.tensor([one.largest for one in kept.sites]).isfinite().all()
