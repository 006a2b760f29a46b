"""Every site of every family is what plain transformers gives for the sequence alone, whatever it is batched with."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModel

from storage.site import Site
from tests.workers.families import LAYERS, TEXT, VISION, VOCABULARY, Family, build
from workers.model import LM, ModelSpec, load

LAYERED = [Site(kind, layer) for kind in ("resid", "attn", "mlp") for layer in range(LAYERS)]
SITES = [Site("embed"), *LAYERED, Site("unembed")]
# Lengths of one token, of a short and of a long batch; the windows of the families are 3 tokens.
BATCHES = [[1], [7, 1, 12, 5], [1, 1], [12, 12]]


@dataclass(frozen=True)
class Case:
    family: Family
    lm: LM
    plain: Any


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small only lose by threads that wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=[*TEXT, *VISION])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    family = (TEXT | VISION)[request.param]
    folder = str(tmp_path_factory.mktemp(request.param))
    build(family.config).save_pretrained(folder)
    return Case(family, load(ModelSpec(source=folder)), AutoModel.from_pretrained(folder).eval())


def _examples(case: Case) -> list[list[dict[str, Tensor]]]:
    """Batches of single inputs."""
    draw = torch.Generator().manual_seed(1)
    if case.lm.prefix or "num_channels" in case.family.config.to_dict():
        return [[{"pixel_values": torch.randn(1, 3, 24, 24, generator=draw)} for _ in range(3)]]
    return [
        [{"input_ids": torch.randint(3, VOCABULARY, (1, length), generator=draw)} for length in lengths]
        for lengths in BATCHES
    ]


def _padded(batch: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    if "pixel_values" in batch[0]:
        return {"pixel_values": torch.cat([single["pixel_values"] for single in batch])}
    ids = [single["input_ids"][0] for single in batch]
    mask = [torch.ones_like(row) for row in ids]
    pad = torch.nn.utils.rnn.pad_sequence
    return {
        "input_ids": pad(ids, batch_first=True, padding_value=9),
        "attention_mask": pad(mask, batch_first=True),
    }


def _agree(found: Tensor, wanted: Tensor) -> bool:
    """Largest difference in each row at most 1e-5 of the row's norm."""
    assert found.shape == wanted.shape
    return bool(((found - wanted).abs().amax(-1) <= 1e-5 * wanted.norm(dim=-1)).all())


def _each(case: Case, check: Callable[[dict[Site, Tensor], dict[str, Tensor]], None]) -> None:
    """`check` on the rows read in a batch, sequence by sequence, and what transformers gives for it alone."""
    for batch in _examples(case):
        rows = case.lm.read(_padded(batch), SITES)
        for index, single in enumerate(batch):
            with torch.no_grad():
                plain = case.plain(**single, output_hidden_states=True)
            length = plain.last_hidden_state.shape[1]
            check({site: rows[site][index : index + 1, :length] for site in SITES}, plain)


def test_stream_is_the_plain_hidden_states(case: Case):
    def check(rows: dict[Site, Tensor], plain: Any) -> None:
        assert _agree(rows[Site("embed")], plain.hidden_states[0])
        for layer in range(LAYERS - 1):
            assert _agree(rows[Site("resid", layer)], plain.hidden_states[layer + 1]), layer
        assert _agree(rows[Site("unembed")], plain.last_hidden_state)

    _each(case, check)


def test_last_resid_is_what_the_final_norm_reads(case: Case):
    def check(rows: dict[Site, Tensor], plain: Any) -> None:
        with torch.no_grad():
            final = case.family.final(case.plain, rows[Site("resid", LAYERS - 1)])
        assert _agree(final, plain.last_hidden_state)

    _each(case, check)


def test_halves_are_what_the_block_adds(case: Case):
    blocks = case.plain.get_submodule(case.family.blocks)

    def check(rows: dict[Site, Tensor], plain: Any) -> None:
        for layer, block in enumerate(blocks):
            x, a, m = plain.hidden_states[layer], rows[Site("attn", layer)], rows[Site("mlp", layer)]
            with torch.no_grad():
                assert _agree(m, case.family.mlp(block, x, a)), layer
                assert _agree(case.family.out(block, x, a, m), rows[Site("resid", layer)]), layer

    _each(case, check)


def test_one_site_alone_is_the_same_as_among_all(case: Case):
    inputs = _padded(_examples(case)[-1])
    together = case.lm.read(inputs, SITES)
    for site in SITES:
        assert torch.equal(case.lm.read(inputs, [site])[site], together[site]), site


def test_prefix_counts_the_tokens_before_the_patches(case: Case):
    assert case.lm.prefix == case.family.prefix
