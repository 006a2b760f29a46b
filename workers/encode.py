"""Text to token ids with the characters that each token covers, for any transformers tokenizer."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import numpy as np
from transformers import AutoConfig, AutoTokenizer

from storage.errors import InputError, RunError
from workers.spans import Affixes, Encoded


class Encoder:
    """A loaded tokenizer."""

    def __init__(self, source: str, revision: str | None) -> None:
        self.source = source
        self.tokenizer = _load(source, revision)

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """One `Encoded` per text: whole, neither padded nor cut.

        Offsets are those of a fast tokenizer. A slow one has none: they are then told from the decoded tokens where
        these, joined, are the text again, and are None otherwise.
        """
        if not texts:
            return []
        fast = self.tokenizer.is_fast
        # not verbose: a text longer than the model's context is cut later, which its warning cannot know
        batch = self.tokenizer(
            list(texts),
            add_special_tokens=False,
            padding=False,
            truncation=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            return_offsets_mapping=fast,
            verbose=False,
        )
        if not fast:
            return [self._from_decoding(text, ids) for text, ids in zip(texts, batch["input_ids"], strict=True)]
        return [_encoded(ids, spans) for ids, spans in zip(batch["input_ids"], batch["offset_mapping"], strict=True)]

    def affixes(self) -> Affixes:
        """What is put before and after, read off a short text."""
        for text in itertools.chain(("a",), (self.decode(token) for token in range(len(self.tokenizer)))):
            batch = self.tokenizer(text, padding=False, truncation=False, return_special_tokens_mask=True)
            mask, ids = batch["special_tokens_mask"], np.asarray(batch["input_ids"], np.int32)
            if 0 in mask:
                return Affixes(ids[: mask.index(0)], ids[len(mask) - mask[::-1].index(0) :])
        raise InputError(f"the tokenizer of {self.source!r} turns no text into tokens: save the model with its own")

    def separator(self) -> int:
        """The token between packed documents: end of sequence, or the separator."""
        for token in (self.tokenizer.eos_token_id, self.tokenizer.sep_token_id):
            if token is not None:
                return int(token)
        raise InputError(
            f"the tokenizer of {self.source!r} has neither an eos nor a sep token to pack documents with: "
            "use one sequence per document"
        )

    def special_ids(self) -> np.ndarray:
        """Ids of the tokens that stand for no text, int32; the token for unknown text does, and is none of them."""
        tokenizer, affixes = self.tokenizer, self.affixes()
        added = [token for token, what in tokenizer.added_tokens_decoder.items() if what.special]
        edges = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.sep_token_id, tokenizer.cls_token_id}
        unknown = {tokenizer.unk_token_id} - edges  # GPT-2 names its end of text so too
        declared = {*added, *tokenizer.all_special_ids} - unknown
        return np.unique(np.concatenate([list(declared), affixes.prefix, affixes.suffix])).astype(np.int32)

    def check_template(self) -> None:
        """Refuses a tokenizer that has no chat template."""
        if not self.tokenizer.chat_template:
            raise InputError(
                f"the tokenizer of {self.source!r} has no chat template, so it cannot render messages: "
                "use a chat model, or give the corpus a text column"
            )

    def render(self, messages: Sequence[Mapping[str, Any]], key: str) -> str:
        """A chat as the model's template writes it; `key` names the document."""
        try:
            text: str = self.tokenizer.apply_chat_template([dict(message) for message in messages], tokenize=False)
        except (jinja2.TemplateError, ValueError) as error:
            raise RunError(
                f"document {key}: the chat template of {self.source!r} refuses its messages ({error}). "
                "Correct them or leave the document out"
            ) from error
        return text

    def decode(self, token: int) -> str:
        """One token's own text; a byte that is no character by itself reads as U+FFFD."""
        text: str = self.tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    def _from_decoding(self, text: str, ids: list[int]) -> Encoded:
        pieces = [self.decode(token) for token in ids]
        array = np.asarray(ids, np.int32)
        if "".join(pieces) != text:
            return Encoded(array, None, None)
        end = np.cumsum([len(piece) for piece in pieces], dtype=np.int32)
        return Encoded(array, np.concatenate([np.zeros(min(1, len(end)), np.int32), end[:-1]]), end)


def vocabulary_size(source: str, revision: str | None) -> int:
    """Rows of the model's embedding, from its configuration."""
    config = AutoConfig.from_pretrained(source, revision=revision or None).get_text_config()
    size = getattr(config, "vocab_size", None)
    if not isinstance(size, int):
        raise InputError(f"model {source!r} has no vocabulary: input ids and vocabularies need a language model")
    return size


def _load(source: str, revision: str | None) -> Any:
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision or None)
    except (OSError, ValueError) as error:
        raise _no_tokenizer(source, str(error).strip().splitlines()[0]) from error
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        # transformers makes one up for a folder that has a configuration alone; it would read all text as unknown
        raise _no_tokenizer(source, "its vocabulary is empty")
    return tokenizer


def _no_tokenizer(source: str, found: str) -> InputError:
    return InputError(
        f"model {source!r} has no tokenizer ({found}): save the tokenizer in the model's folder, "
        "or use a corpus of input_ids"
    )


def _encoded(ids: list[int], spans: list[tuple[int, int]]) -> Encoded:
    offsets = np.asarray(spans, np.int32).reshape(-1, 2)
    return Encoded(np.asarray(ids, np.int32), offsets[:, 0].copy(), offsets[:, 1].copy())
