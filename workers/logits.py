"""Logits of chosen tokens, and the log-sum-exp of all, as the checkpoint's own class computes them.

N: rows, V: vocabulary, K: chosen tokens, d: width of what the unembedding reads.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from storage.errors import InputError
from storage.sets import TokenSet
from storage.site import Site
from workers import checkpoint
from workers.anatomy import Anatomy
from workers.encode import Encoder
from workers.sketch import first_line, sketch, tower_config

_BLOCK_BYTES = 64 * 2**20
"""Logits held at once, float32."""


@dataclass(frozen=True)
class Head:
    """What is known of the class that a checkpoint was saved as, which unembeds."""

    kind: Any
    """The class."""
    body: str
    """Path, below the model that is read, of the module that hands the last hidden states to the head."""
    output: Any
    """The class of what that module gives."""
    vocabulary: int
    """Logits of a row."""


def head(source: str, revision: str) -> Head:
    """The head of a resolved model, found without weights; `InputError` where it has none that gives logits."""
    return _head(source, revision, checkpoint.config_digest(source, revision))


def token_set(source: str, revision: str | None, words: Sequence[str | int]) -> TokenSet:
    """The tokens named by their ids, or by texts that are exactly one each; `InputError` where one is not."""
    source, commit = checkpoint.resolve(source, revision)
    vocabulary = head(source, commit).vocabulary
    ids = tuple(_ids(source, commit, words))
    if wrong := [one for one in ids if not 0 <= one < vocabulary]:
        raise InputError(f"token id {wrong[0]} is none of the model's 0..{vocabulary - 1}: name one of these")
    if len(set(ids)) < len(ids):
        twice = next(word for at, word in enumerate(words) if ids[at] in ids[:at])
        raise InputError(f"{twice!r} is token {ids[words.index(twice)]}, which stands there already: drop it")
    return TokenSet(ids=ids, texts=tuple(word if isinstance(word, str) else "" for word in words))


@torch.inference_mode()
def score(model: Any, head: Head, x_Nd: Tensor, ids_K: Sequence[int]) -> Tensor:
    """float32 [N, K + 1]: the logits of those tokens for what the unembedding reads, and the log-sum-exp of all."""
    rows = max(1, _BLOCK_BYTES // (4 * head.vocabulary))
    index_K = torch.tensor(ids_K, device=x_Nd.device)
    parts = [torch.zeros(0, len(ids_K) + 1, device=x_Nd.device)]
    for x_nd in torch.split(x_Nd, rows):
        logits_nV = _unembed(model, head, x_nd).float()
        parts.append(torch.cat([logits_nV[:, index_K], logits_nV.logsumexp(-1, keepdim=True)], dim=-1))
    return torch.cat(parts)


@functools.lru_cache(maxsize=8)
def _head(source: str, revision: str, config_digest: str) -> Head:
    config, drawn = tower_config(source, revision), sketch(source, revision)
    name = next(iter(config.architectures or ()), "no class")
    kind = getattr(transformers, name, None)
    try:
        with torch.device("meta"):
            model: Any = kind(config).eval() if kind else nn.Identity()
    except Exception as error:
        raise _headless(source, name, first_line(error)) from error
    body = getattr(model, "base_model", model)
    if body is model:
        raise _headless(source, name, "it gives hidden states alone")
    if type(body) is not drawn.body:
        raise _headless(source, name, f"its body is {type(body).__name__}, garner reads {drawn.body.__name__}")
    if model.get_output_embeddings() is None:
        raise _headless(source, name, "it has no output embedding")
    return _found(source, kind, model, drawn.anatomy)


def _found(source: str, kind: Any, model: Any, anatomy: Anatomy) -> Head:
    """The head, from its forward over five rows; OPT's calls a part of its body, others the body itself."""
    why = "its head does not read the last hidden states"
    for path, output in anatomy.ends.items():
        tried = Head(kind, path, output, 0)
        try:
            with FakeTensorMode(allow_non_fake_inputs=True), torch.device("meta"), torch.no_grad():
                logits_NV = _unembed(model, tried, torch.zeros(5, anatomy.width(Site("unembed"))))
            return dataclasses.replace(tried, vocabulary=int(logits_NV.shape[-1]))
        except Exception as error:
            why = first_line(error)
    raise _headless(source, kind.__name__, why)


def _unembed(model: Any, head: Head, x_Nd: Tensor) -> Tensor:
    """[N, V]: the head's own forward, in which the body gives `x_Nd` for whatever it is asked."""
    body = model.base_model.get_submodule(head.body)
    with _giving(body, head.output(last_hidden_state=x_Nd[None])) as asked:
        logits_1NV: Tensor = model(input_ids=torch.zeros(1, len(x_Nd), dtype=torch.long, device=x_Nd.device)).logits
    if len(asked) != 1:
        raise ValueError(f"its head asks its body {len(asked)} times")
    if logits_1NV.shape[:-1] != (1, len(x_Nd)):
        raise ValueError(f"it gives logits {list(logits_1NV.shape)} for {len(x_Nd)} rows")
    return logits_1NV[0]


@contextmanager
def _giving(body: Any, states: object) -> Iterator[list[object]]:
    """`body` gives these states; a list of the times it was asked."""
    asked: list[object] = []

    def forward(*args: Any, **kwargs: Any) -> object:
        asked.append(states)
        return states

    body.forward = forward
    try:
        yield asked
    finally:
        del body.forward


def _ids(source: str, revision: str, words: Sequence[str | int]) -> Iterator[int]:
    encoder = Encoder(source, revision) if any(isinstance(word, str) for word in words) else None
    for word in words:
        if encoder is None or isinstance(word, int):
            yield int(word)
            continue
        ids = encoder.encode([word])[0].input_ids.tolist()
        if len(ids) != 1:
            pieces = ", ".join(f"{encoder.decode(one)!r} ({one})" for one in ids) or "nothing"
            raise InputError(
                f"{word!r} is {len(ids)} tokens for this model, wanted one: it becomes {pieces}; "
                "name one of these by its id, or another text"
            )
        yield ids[0]


def _headless(source: str, name: str, why: str) -> InputError:
    return InputError(
        f"model {source!r} has no unembedding to take logits from: it was saved as {name}, {why}; "
        "name a checkpoint with its language-model head, or leave the logits out"
    )
