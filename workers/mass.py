"""Attention mass: with which probability each head attends to a span of tokens, by the model's own attention.

Whatever a model does to its scores (mask, window, soft cap, sink), its attention is linear in the values. So attention
to a span's indicator in place of the values is the span's mass, and no [T, T] matrix is made.

B: sequences, T: tokens, H: query heads, S: spans, v: width of a value.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from transformers import AttentionInterface

from storage.sequences import Sequence as TokenSequence
from storage.site import FIRST, Site
from storage.tokens import ROLES

Attend = Callable[..., Any]
"""(module, query [B, H, T, .], key, value [B, ., T, v], mask, ...) -> ([B, T, H, v], ...)"""

# The table of attention functions is one for the whole process.
_ONE_AT_A_TIME = threading.RLock()


@dataclass(frozen=True)
class Attention:
    """The module that attends in a block, and its query heads."""

    path: str
    heads: int


@dataclass(frozen=True)
class Call:
    """What one attention function took and gave."""

    module: nn.Module
    query: torch.Size
    output: torch.Size | None
    value: torch.Size


@contextmanager
def noted() -> Iterator[list[Call]]:
    """Every attention function that a model calls meanwhile."""
    calls: list[Call] = []

    def note(attend: Attend) -> Attend:
        def noting(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
            given = attend(module, query, key, value, *args, **kwargs)
            output = given[0] if isinstance(given, tuple) else None
            calls.append(Call(module, query.shape, output.shape if isinstance(output, Tensor) else None, value.shape))
            return given

        return noting

    with _exchanged(note):
        yield calls


def locate(model: nn.Module, blocks: Sequence[str], calls: Sequence[Call]) -> tuple[Attention | str, ...]:
    """For every block the attention that can be watched, or why none can; `calls` are those of one forward."""
    paths = {module: path for path, module in model.named_modules()}
    return tuple(
        _attention([(paths[call.module], call) for call in calls if paths[call.module].startswith(f"{block}.")])
        for block in blocks
    )


@contextmanager
def watched(
    model: nn.Module,
    sites: Mapping[Site, Attention],
    spans: Mapping[str, Tensor],
    keep: Callable[[Site, Tensor], None],
) -> Iterator[None]:
    """Gives `keep` the mass [B, T, H], float32, of every site, once its block has attended; `spans` are bool [B, T].

    What the model computes does not change by a bit: its attention runs first, as it is.
    """
    by_module = {model.get_submodule(attention.path): attention for attention in sites.values()}

    def watch(attend: Attend) -> Attend:
        def watching(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
            given = attend(module, query, key, value, *args, **kwargs)
            mine = [site for site, attention in sites.items() if attention == by_module.get(module)]
            if mine:
                spans_BTS = torch.stack([spans[site.path] for site in mine], dim=-1)
                mass_BTHS = _mass(attend, module, spans_BTS, query, key, value, args, kwargs)
                for site, mass_BTH in zip(mine, mass_BTHS.unbind(-1), strict=True):
                    keep(site, mass_BTH)
            return given

        return watching

    if sites:
        with _exchanged(watch):
            yield
    else:
        yield


def indicators(batch: Sequence[TokenSequence], spans: set[str], length: int) -> dict[str, Tensor]:
    """Which tokens of each padded sequence a span holds, bool [B, T], for every span; roles must be known."""
    return {span: torch.from_numpy(np.stack([_indicator(one, span, length) for one in batch])) for span in spans}


def _indicator(sequence: TokenSequence, span: str, length: int) -> np.ndarray:
    held_T = np.zeros(length, bool)
    if span == FIRST:
        held_T[0] = True
    else:
        assert sequence.roles is not None, "a role's mass is read of tokens whose roles are known"
        held_T[: len(sequence.roles)] = sequence.roles == ROLES.index(span)
    return held_T


@contextmanager
def _exchanged(around: Callable[[Attend], Attend]) -> Iterator[None]:
    """Models get `around(f)` for every attention function f that they look up meanwhile, as they do in each forward."""
    table: Any = AttentionInterface
    with _ONE_AT_A_TIME:
        look_up = table.get_interface
        table.get_interface = lambda *args, **kwargs: around(look_up(*args, **kwargs))
        try:
            yield
        finally:
            table.get_interface = look_up


def _attention(calls: Sequence[tuple[str, Call]]) -> Attention | str:
    if not calls:
        return "its attention is its own, not one of transformers' exchangeable functions, so none can be watched"
    if len(calls) > 1:
        return f"it attends {len(calls)} times in a forward ({', '.join(path for path, _ in calls)})"
    path, call = calls[0]
    batch, heads, tokens = call.query[:3]
    if call.output != torch.Size([batch, tokens, heads, call.value[-1]]) or call.value[-2] != tokens:
        return f"its attention gives {call.output} for queries {list(call.query)} and values {list(call.value)}"
    return Attention(path, heads)


def _mass(
    attend: Attend,
    module: nn.Module,
    spans_BTS: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> Tensor:
    """Mass [B, T, H, S]: each column of the values is one span's indicator, and all arithmetic is float32."""
    query, key, args, kwargs = pytree.tree_map_only(Tensor, _wide, (query, key, args, dict(kwargs)))
    masses = []
    for some_BTS in torch.split(spans_BTS, value.shape[-1], dim=-1):
        indicator = torch.zeros_like(value, dtype=torch.float32)
        indicator[..., : some_BTS.shape[-1]] = some_BTS[:, None]
        masses.append(attend(module, query, key, indicator, *args, **kwargs)[0][..., : some_BTS.shape[-1]])
    return torch.cat(masses, dim=-1)


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.is_floating_point() else x
