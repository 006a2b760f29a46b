"""Making the material: a small random GPT-2, a tokenizer of whole words, random documents, and the true rows."""

import json
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModel, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from benchmarks.peers.material import BLOCK, SEQUENCES, Material

_SPECIAL = ("<unk>", "<pad>", "<eos>")


def prepare(folder: Path, sequences: int = 2048, context: int = 128, width: int = 256) -> Material:
    """The material in `folder`, made unless it is there; `truth.npy` is written last."""
    material = Material(folder)
    if not (folder / "truth.npy").exists():
        words = 2 * sequences
        _save_model(material, words + len(_SPECIAL), context, width)
        _save_tokenizer(material, words)
        _save_corpus(material, _tokens(sequences, context, words))
        _save_truth(material)
    return material


def _tokens(sequences: int, context: int, words: int) -> np.ndarray:
    """Random words; each document begins with a word of its own, so that no two rows are equal."""
    rng = np.random.default_rng(0)
    tokens_ST = rng.integers(len(_SPECIAL), len(_SPECIAL) + words, (sequences, context), dtype=np.int32)
    tokens_ST[:, 0] = len(_SPECIAL) + rng.permutation(words)[:sequences]
    return tokens_ST


def _save_model(material: Material, vocabulary: int, context: int, width: int) -> None:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=vocabulary,
        n_positions=context,
        n_ctx=context,  # the hub's GPT-2 still has it, and TransformerLens looks for it
        n_embd=width,
        n_layer=4,
        n_head=4,
        initializer_range=0.1,  # wide enough for rows to be of the size of a trained model's
        bos_token_id=_SPECIAL.index("<eos>"),
        eos_token_id=_SPECIAL.index("<eos>"),
    )
    GPT2LMHeadModel(config).save_pretrained(material.model)


def _save_tokenizer(material: Material, words: int) -> None:
    vocabulary = {word: n for n, word in enumerate((*_SPECIAL, *(f"w{n}" for n in range(words))))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"unk_token": "<unk>", "pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<eos>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(material.model)


def _save_corpus(material: Material, tokens_ST: np.ndarray) -> None:
    material.corpus.parent.mkdir(exist_ok=True)
    texts = (" ".join(f"w{token - len(_SPECIAL)}" for token in tokens_T) for tokens_T in tokens_ST)
    material.corpus.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    np.save(material.folder / "tokens.npy", tokens_ST)


def _save_truth(material: Material) -> None:
    """Plain transformers with every block and hidden state, so that the truth owes nothing to hooks or early stops."""
    model = AutoModel.from_pretrained(material.model).eval()
    with torch.inference_mode():
        parts = [
            model(ids_BT, output_hidden_states=True, use_cache=False).hidden_states[BLOCK + 1].flatten(0, 1)
            for ids_BT in torch.from_numpy(material.tokens).long().split(SEQUENCES)
        ]
    np.save(material.folder / "truth.npy", torch.cat(parts).numpy())
