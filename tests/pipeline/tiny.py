"""Tiny random models with a tokenizer of bytes, corpora of awkward lengths, recipes over them, and plain transformers
run over one sequence alone: what harvests are compared with.

T: tokens of a sequence, d: width of a site.
"""

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    AutoImageProcessor,
    AutoModel,
    BertConfig,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    ViTConfig,
)
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from pipeline.progress import Progress
from pipeline.recipe import Opened, opened
from pipeline.run import run
from storage import Cache, Lake
from storage.sequences import Sequences
from tests.workers.families import build
from workers.pool import NEEDS, LocalPool, Needs

WIDTH, CONTEXT = 32, 64
SITES = ("embed", "resid.0", "attn.1", "mlp.1", "resid.1", "unembed")
TEXTS = (
    "a document of some words, no longer than a shard",
    "",
    "x",
    "two",
    "Grüße aus Köln 🙂 日本語",
    "longer than the context, so that it continues in a second and a third sequence: " + "the quick brown fox " * 5,
    "",
    "exactly sixteen.",
    "s" * CONTEXT,
    "t" * (CONTEXT + 1),
    *(f"line {n} " + "ab cd " * (n % 9) for n in range(14)),
    "the last one",
)
"""Of bytes, and so of tokens, from none to more than twice the context."""
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
_SPECIAL = {"pad_token": "<pad>", "eos_token": "<eos>", "cls_token": "<cls>", "sep_token": "<sep>"}
_TEXT = {"vocab_size": 260, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}


def save_tokenizer(folder: Path, affixes: bool = False, side: str = "right") -> None:
    """A token per byte; with `affixes` each sequence stands between <cls> and <sep>."""
    tokens = [*_SPECIAL.values(), *sorted(pre_tokenizers.ByteLevel.alphabet())]
    inner = Tokenizer(models.BPE(vocab={token: n for n, token in enumerate(tokens)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    if affixes:
        inner.post_processor = processors.BertProcessing(("<sep>", 3), ("<cls>", 2))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, padding_side=side, **_SPECIAL)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)


def save_decoder(folder: Path, seed: int = 0, side: str = "right", **changes: Any) -> Path:
    """A GPT-2 of two blocks."""
    sizes = {"n_layer": 2, "n_embd": WIDTH, "n_head": 4, "n_positions": CONTEXT} | changes
    build(GPT2Config(**_TEXT, **sizes), seed).save_pretrained(folder)
    save_tokenizer(folder, side=side)
    return folder


def save_language_model(folder: Path, tied: bool) -> Path:
    """A GPT-2 with its unembedding, which is its embedding where they are `tied`."""
    torch.manual_seed(0)
    sizes = {"n_layer": 2, "n_embd": WIDTH, "n_head": 4, "n_positions": CONTEXT, "tie_word_embeddings": tied}
    GPT2LMHeadModel(GPT2Config(**_TEXT, **sizes)).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def save_encoder(folder: Path, side: str = "right") -> Path:
    """A BERT of two blocks."""
    sizes = {"num_hidden_layers": 2, "hidden_size": WIDTH, "num_attention_heads": 4, "intermediate_size": 48}
    build(BertConfig(**_TEXT, **sizes, max_position_embeddings=CONTEXT)).save_pretrained(folder)
    save_tokenizer(folder, affixes=True, side=side)
    return folder


def save_vision(folder: Path) -> Path:
    """A ViT of two blocks and nine patches."""
    sizes = {"num_hidden_layers": 2, "hidden_size": WIDTH, "num_attention_heads": 4, "intermediate_size": 48}
    build(ViTConfig(**sizes, image_size=24, patch_size=8)).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 24, "width": 24}).save_pretrained(folder)
    return folder


def write_texts(path: Path, texts: Sequence[str]) -> Path:
    """JSON lines with a `text` column."""
    return write_lines(path, [{"text": text, "number": n} for n, text in enumerate(texts)])


def write_lines(path: Path, lines: Sequence[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def write_pictures(folder: Path, count: int) -> None:
    """Noise of several sizes as PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    for n in range(count):
        x_HWC = np.random.default_rng(n).integers(0, 256, (20 + 3 * n, 31, 3), dtype=np.uint8)
        Image.fromarray(x_HWC).save(folder / f"{n}.png")


def table(model: Path, base: Path, lake: str = "lake", **cache: Any) -> dict[str, Any]:
    """The recipe of one cache, `texts`, of `base`/docs/*.jsonl, in a lake in `base` unless another is named."""
    return {
        "lake": lake,
        "models": {"model": {"name": str(model)}},
        "corpora": {"docs": {"files": str(base / "docs" / "*.jsonl")}},
        "caches": {"texts": {"model": "model", "corpus": "docs", "sites": list(SITES), "dtype": "float32"} | cache},
        "pool": {"kind": "local"},
    }


def read(recipe: Mapping[str, Any], base: Path) -> Opened:
    """The recipe, opened in `base`."""
    return opened(recipe, str(base), "tiny")


def harvest(recipe: Mapping[str, Any], base: Path) -> tuple[Cache, Progress]:
    """The one cache of the recipe's lake after a run, and what the run counted."""
    opened, progress = read(recipe, base), Progress(live=False)
    run(opened, progress)
    return only_cache(opened.lake), progress


def only_cache(lake: str) -> Cache:
    """The one cache of a lake, newly opened."""
    (name,) = Lake(lake).caches()
    return Lake(lake).cache(name)


def expected_tokens(texts: Sequence[str], affixes: bool) -> list[tuple[int, int, int, str, int]]:
    """(document, position, token id, text of the token, its first character) of every row, from the texts alone."""
    alphabet, room = sorted(pre_tokenizers.ByteLevel.alphabet()), CONTEXT - 2 * affixes
    codes = {byte: alphabet.index(character) + len(_SPECIAL) for byte, character in _byte_characters().items()}
    rows = []
    for document, text in enumerate(texts):
        tokens = [(codes[byte], c, at) for at, c in enumerate(text) for byte in c.encode()]
        for start in range(0, max(len(tokens), 1), room):
            middle = [(document, token, c, at) for token, c, at in tokens[start : start + room]]
            first = middle[0][3] if middle else 0
            last = middle[-1][3] + 1 if middle else 0
            if affixes:
                middle = [(document, 2, "", first), *middle, (document, 3, "", last)]
            rows += [(document, position, *rest) for position, (_, *rest) in enumerate(middle)]
    return rows


def _byte_characters() -> dict[int, str]:
    """How byte-level tokenizers write each byte as one printable character (GPT-2's table)."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in kept]
    return {byte: chr(byte) for byte in kept} | {byte: chr(256 + n) for n, byte in enumerate(others)}


def mark(path: Path) -> dict[str, Any]:
    """What a mark says, as plain values."""
    return dict(json.loads(path.read_bytes()))


class RecordingPool(LocalPool):
    """The local pool, which also keeps the tasks and receipts of every map."""

    def __init__(self) -> None:
        super().__init__()
        self.tasks: list[Any] = []
        self.receipts: list[Any] = []

    def map(self, make: Any, tasks: Sequence[Any], needs: Needs = NEEDS) -> Any:
        """Receipts in the order of the tasks."""
        self.tasks += tasks
        for receipt in super().map(make, tasks, needs):
            self.receipts.append(receipt)
            yield receipt


@functools.cache
def _plain(folder: Path) -> Any:
    return AutoModel.from_pretrained(folder).eval()


def plain(folder: Path, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Every site of `SITES` as plain transformers has it, float32 [T, d]; hooks where no output shows it."""
    model, seen = _plain(folder), {}
    blocks = {"gpt2": "h", "bert": "encoder.layer", "vit": "layers"}[model.config.model_type]
    halves = {
        "gpt2": ("attn", "mlp"),
        "bert": ("attention.output.dense", "output.dense"),
        "vit": ("attention", "mlp"),
    }[model.config.model_type]
    paths = {"resid.1": f"{blocks}.1", "attn.1": f"{blocks}.1.{halves[0]}", "mlp.1": f"{blocks}.1.{halves[1]}"}

    def keep(site: str) -> Any:
        return lambda module, args, out: seen.update({site: out[0] if isinstance(out, tuple) else out})

    hooks = [model.get_submodule(path).register_forward_hook(keep(site)) for site, path in paths.items()]
    with torch.no_grad():
        out = model(**inputs, output_hidden_states=True)
    for hook in hooks:
        hook.remove()
    seen |= {"embed": out.hidden_states[0], "resid.0": out.hidden_states[1], "unembed": out.last_hidden_state}
    return {site: x_1Td[0].numpy() for site, x_1Td in seen.items()}


def plain_text(folder: Path, ids_T: np.ndarray) -> dict[str, np.ndarray]:
    """`plain` for one sequence of token ids."""
    return plain(folder, {"input_ids": torch.from_numpy(ids_T.astype(np.int64))[None]})


def plain_picture(folder: Path, path: Path) -> dict[str, np.ndarray]:
    """`plain` for one image, without the class token's row."""
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    found = plain(folder, processor(images=Image.open(path).convert("RGB"), return_tensors="pt"))
    return {site: x_Td[1:] for site, x_Td in found.items()}


def expected_rows(folder: Path, cache: Cache) -> dict[str, np.ndarray]:
    """All rows of `SITES` that a cache of texts should hold, each sequence run alone; float32 [rows, d]."""
    truths = [
        plain_text(folder, sequence.input_ids)
        for segment in cache.segments
        for sequence in Sequences(segment).touching(0, segment.plan.rows)
    ]
    return {site: np.concatenate([truth[site] for truth in truths]) for site in SITES}


def worst(stored_Nd: np.ndarray, x_Nd: np.ndarray) -> float:
    """The largest difference of a row relative to its norm."""
    assert stored_Nd.shape == x_Nd.shape
    gap_N = np.abs(stored_Nd.astype(np.float32) - x_Nd).max(axis=1)
    return float((gap_N / np.linalg.norm(x_Nd, axis=1)).max())


def write_recipe(recipe: Mapping[str, Any], base: Path) -> str:
    """The recipe as a TOML file in `base`; its path."""
    path = base / "tiny.toml"
    path.write_text("\n".join(_toml_lines(recipe, "")) + "\n", encoding="utf-8")
    return str(path)


def _toml_lines(recipe: Mapping[str, Any], prefix: str) -> Iterator[str]:
    """Plain values first, then a table for each mapping; JSON's scalars and lists are TOML's."""
    yield from (f"{key} = {json.dumps(value)}" for key, value in recipe.items() if not isinstance(value, Mapping))
    for key, value in recipe.items():
        if isinstance(value, Mapping):
            yield f"[{prefix}{key}]"
            yield from _toml_lines(value, f"{prefix}{key}.")
