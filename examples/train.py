"""Makes the example corpora, their tokenizer and the two models from nothing: `python -m examples.train`.

B windows of a batch, T tokens of a window.
"""

import argparse
import json
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from examples.language import LABELS, Document, documents
from examples.measure import bigram_nats, model_nats, n_predicted, unigram_nats

log = logging.getLogger(__name__)

HERE = Path(__file__).parent
BOS, EOS, PAD = 0, 1, 2
SPECIAL = ("<bos>", "<eos>", "<pad>")
CORPORA = {"heldout-a": 101, "heldout-b": 202}
N_HELDOUT = 2000
VOCABULARY_SEED = 303
N_VOCABULARY_TEXTS = 10_000
N_VOCABULARY = 1792
N_POSITIONS = 256


@dataclass(frozen=True, slots=True)
class Recipe:
    """How long and how fast one model learns."""

    config: Callable[[], PretrainedConfig]
    steps: int
    lr: float
    seed: int
    window: int = N_POSITIONS
    """Tokens of a training window; documents follow one another in it."""
    batch: int = 8


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE that opens every document with <bos>; its offsets are characters of the text."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=N_VOCABULARY, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(texts, trainer)
    bpe.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=True),
            processors.TemplateProcessing(single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", BOS)]),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        model_max_length=N_POSITIONS,
    )


def narrow() -> GPT2Config:
    """GPT-2's architecture, 96 wide."""
    return GPT2Config(
        vocab_size=N_VOCABULARY,
        n_positions=N_POSITIONS,
        n_embd=96,
        n_layer=4,
        n_head=4,
        initializer_range=0.08,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )


def wide() -> LlamaConfig:
    """Llama's architecture, 160 wide."""
    return LlamaConfig(
        vocab_size=N_VOCABULARY,
        max_position_embeddings=N_POSITIONS,
        hidden_size=160,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=5,
        initializer_range=0.05,
        tie_word_embeddings=True,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )


RECIPES = {
    "narrow": Recipe(narrow, steps=2400, lr=6e-3, seed=1),
    "wide": Recipe(wide, steps=1400, lr=3e-3, seed=2),
}


def token_ids(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> list[list[int]]:
    """<bos> document <eos>, for each text."""
    return [[*ids, EOS] for ids in tokenizer(texts)["input_ids"]]


def windows(tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> Iterator[torch.Tensor]:
    """Batches of fresh documents, without end: each window starts with a document and is filled with more."""
    seed = recipe.seed * 1_000_000
    while True:
        seed += 1
        rows, row = [], []
        for ids in token_ids(tokenizer, [d.text for d in documents(seed, 1000)]):
            row += ids
            if len(row) >= recipe.window:
                rows.append(row[: recipe.window])
                row = []
        for start in range(0, len(rows) - recipe.batch + 1, recipe.batch):
            yield torch.tensor(rows[start : start + recipe.batch])


def train(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """A model that has read `steps` batches, each once; the rate rises for a twentieth and falls to nothing."""
    torch.manual_seed(recipe.seed)
    model = AutoModelForCausalLM.from_config(recipe.config())
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, betas=(0.9, 0.98), weight_decay=0.01)
    rise = max(1, recipe.steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / rise, (recipe.steps - step) / (recipe.steps - rise))
    )
    for step, ids_BT in zip(range(recipe.steps), windows(tokenizer, recipe), strict=False):
        loss = model(ids_BT, labels=ids_BT).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 50 == 0 or step == recipe.steps - 1:
            log.info("step %d: %.3f nats a token", step, loss.item())
    return model.eval()


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Weights are stored as float16 and said to be float32, which is what they are loaded as."""
    model.half().save_pretrained(folder)
    model.config.dtype = torch.float32
    model.config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_corpus(name: str, texts: list[Document]) -> None:
    """One JSON object per line: id, text, and a column for each latent."""
    path = HERE / "corpus" / f"{name}.jsonl"
    path.parent.mkdir(exist_ok=True)
    lines = (
        {"id": f"{name}-{i:05d}", "text": d.text} | {label: getattr(d, label) for label in LABELS}
        for i, d in enumerate(texts)
    )
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def main() -> None:
    """Everything, or the named models only; then what they and the simplest baselines make of held-out text."""
    parser = argparse.ArgumentParser(prog="python -m examples.train")
    parser.add_argument("model", nargs="*", default=list(RECIPES), help="which models to train; both by default")
    names = parser.parse_args().model
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    corpora = {name: documents(seed, N_HELDOUT) for name, seed in CORPORA.items()}
    for name, texts in corpora.items():
        write_corpus(name, texts)
    heldout = [document for texts in corpora.values() for document in texts]
    training = [document.text for document in documents(VOCABULARY_SEED, N_VOCABULARY_TEXTS)]
    tokenizer = train_tokenizer(training)
    report_baselines(tokenizer, training, heldout)
    ids = token_ids(tokenizer, [document.text for document in heldout])
    for name in names:
        folder = HERE / "models" / name
        save(train(RECIPES[name], tokenizer), tokenizer, folder)
        report(name, model_nats(AutoModelForCausalLM.from_pretrained(folder), ids))


def report_baselines(tokenizer: PreTrainedTokenizerFast, training: list[str], heldout: list[Document]) -> None:
    ids = token_ids(tokenizer, [document.text for document in heldout])
    seen = token_ids(tokenizer, training)
    n = n_predicted(ids)
    print(f"held out: {len(ids)} documents, {sum(map(len, ids)) - len(ids)} tokens with <bos>")
    report("unigram", unigram_nats(seen, ids, N_VOCABULARY))
    report("bigram", bigram_nats(seen, ids, N_VOCABULARY))
    report("the language's own choices", sum(document.nats for document in heldout) / n)


def report(what: str, nats: float) -> None:
    print(f"{what}: {nats:.3f} nats a token, perplexity {math.exp(nats):.2f}", flush=True)


if __name__ == "__main__":
    main()
