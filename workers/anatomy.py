"""Where a model's sites are, found by running a copy without weights: its blocks, their halves, every module's width.

B: sequences, T: tokens, d: a module's width.
"""

import difflib
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from storage.errors import InputError
from storage.site import Site
from workers import mass
from workers.mass import Attention
from workers.summands import Block, Summand, Unreadable
from workers.sums import Sums
from workers.taps import Tap, first_input, first_tensor

# How families name the half that mixes tokens; norms and dropouts after it are not it.
_ATTENTION = re.compile(r"(?!.*(norm|ln|drop|scale)).*(attn|attention)", re.IGNORECASE)


@dataclass(frozen=True)
class Anatomy:
    """Every site of a model; made by `study`, asked with `tap`."""

    source: str
    """The model, for messages."""
    layers: int
    """Blocks."""
    sites: Mapping[Site, Tap | str]
    """Where each site is read, or why it cannot be."""
    modules: Mapping[str, int | str]
    """The width of every module, or why it is no site."""
    attentions: tuple[Attention | str, ...]
    """What attends in every block, or why it cannot be watched."""
    ends: Mapping[str, Any]
    """Modules whose output holds the last hidden states, the model itself ("") first, and the class of that output."""

    def width(self, site: Site) -> int:
        """Width of a site's rows; `InputError` where this model has none."""
        return self.attention(site).heads if site.kind == "mass" else self.tap(site).width

    def attention(self, site: Site) -> Attention:
        """What attends in the block of a mass site; `InputError` where it cannot be watched."""
        found = self.attentions[site.layer] if site.layer < self.layers else None
        if isinstance(found, Attention):
            return found
        raise self._absent(site) if found is None else self._unreadable(site, found, "leave it out")

    def tap(self, site: Site) -> Tap:
        """Where `site` is read; `InputError` where this model has none."""
        found = self._module(site) if site.kind == "module" else self.sites.get(site)
        if isinstance(found, Tap):
            return found
        if found is None:
            raise self._absent(site)
        raise self._unreadable(site, found, "name another site, or any module as module:<path>")

    def _absent(self, site: Site) -> InputError:
        return InputError(
            f"model {self.source!r} has no site {site}: it has blocks 0..{self.layers - 1}; name one of them"
        )

    def _unreadable(self, site: Site, why: str, cure: str) -> InputError:
        return InputError(f"model {self.source!r} cannot be read at {site}: {why}; {cure}")

    def _module(self, site: Site) -> Tap | str:
        width = self.modules.get(site.path)
        if width is not None:
            return Tap(site.path, width) if isinstance(width, int) else width
        near = difflib.get_close_matches(site.path, self.modules, n=3, cutoff=0.4)
        hint = f"the nearest are {', '.join(near)}" if near else f"its first are {', '.join(list(self.modules)[:5])}"
        raise InputError(f"model {self.source!r} has no module {site.path!r}: {hint}; name one that it has")


def study(source: str, model: nn.Module, inputs: Mapping[str, Tensor], layers: int) -> Anatomy:
    """The anatomy of `model`, a throw-away copy without weights, from two forwards of `inputs` (B sequences)."""
    watch = _Watch(model)
    with torch.no_grad(), mass.noted() as attended:
        model(**inputs)
    blocks = _blocks(source, model, layers, watch.calls)
    embed = watch.entered[blocks[0]]
    given = next(iter(inputs.values())).shape
    known = 2 if len(given) == 2 else 1  # of text the tokens are known, of an image only the sequences
    if embed is None or embed.dim() != 3 or embed.shape[:known] != given[:known]:
        raise InputError(f"model {source!r} passes its blocks no row per token: garner reads none such")
    widths = {path: _width(path, watch, given[0], embed.shape[1]) for path, _ in model.named_modules()}
    sites: dict[Site, Tap | str] = {
        Site("embed"): Tap(blocks[0], embed.shape[2], inward=True),
        Site("unembed"): _tap("", widths[""]),
    }
    sites |= {Site("resid", layer): _tap(path, widths[path]) for layer, path in enumerate(blocks)}
    for layer, block in enumerate(_watched(model, inputs, blocks, watch.calls)):
        sites |= _halves(layer, blocks[layer], block.added, embed.shape[2])
    modules = {path: width for path, width in widths.items() if path}
    return Anatomy(source, layers, sites, modules, mass.locate(model, blocks, attended), _ends(watch))


class _Watch:
    """How often each module of a throw-away model runs, and the first tensors it takes and gives."""

    def __init__(self, model: nn.Module) -> None:
        self.calls: Counter[str] = Counter()
        self.entered: dict[str, Tensor | None] = {}
        self.left: dict[str, Tensor | None] = {}
        self.gave: dict[str, type] = {}
        for path, module in model.named_modules():
            module.register_forward_hook(self._on(path), with_kwargs=True)

    def _on(self, path: str) -> Callable[..., None]:
        def ran(_: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: object) -> None:
            self.calls[path] += 1
            self.entered[path] = first_input(args, kwargs)
            self.left[path] = first_tensor(output)
            self.gave[path] = type(output)

        return ran


def _blocks(source: str, model: nn.Module, layers: int, calls: Counter[str]) -> list[str]:
    """Paths of the blocks: the outermost list of as many modules as the model has layers, each of which runs once."""
    found: list[list[str]] = []
    for path, module in model.named_modules():
        inside = any(path.startswith(f"{block}.") for blocks in found for block in blocks)
        if isinstance(module, nn.ModuleList) and len(module) == layers and not inside:
            blocks = [f"{path}.{index}" for index in range(layers)]
            if all(calls[block] == 1 for block in blocks):
                found.append(blocks)
    if len(found) == 1:
        return found[0]
    raise InputError(
        f"model {source!r} has {len(found)} lists of {layers} blocks that run once each, and garner reads models with "
        "one: layers that are shared (ALBERT) or in stages (Swin) have no numbered stream; name another model"
    )


def _width(path: str, watch: _Watch, batch: int, tokens: int) -> int | str:
    """The width of a module that gives a row per token, else why it is no site."""
    calls, output = watch.calls[path], watch.left.get(path)
    if calls != 1:
        return f"it runs {calls} times in a forward" if calls else "it does not run when hidden states are computed"
    if output is None:
        return "it gives no tensor"
    if output.shape[:-1] in (torch.Size([batch, tokens]), torch.Size([batch * tokens])):
        return int(output.shape[-1])
    return f"it gives shape {list(output.shape)} for {batch} sequences of {tokens} tokens, not a row per token"


def _ends(watch: _Watch) -> dict[str, Any]:
    outer_first = sorted(path for path, x in watch.left.items() if x is watch.left[""])
    return {path: watch.gave[path] for path in outer_first if issubclass(watch.gave[path], ModelOutput)}


def _tap(path: str, width: int | str) -> Tap | str:
    return Tap(path, width) if isinstance(width, int) else width


def _watched(model: nn.Module, inputs: Mapping[str, Tensor], blocks: list[str], calls: Counter[str]) -> list[Block]:
    """The blocks, after a forward in which they were watched."""
    once = {module for path, module in model.named_modules() if calls[path] == 1}
    sums = Sums()
    watched = [Block(sums, model.get_submodule(path), once) for path in blocks]
    with torch.no_grad(), sums:
        model(**inputs)
    return watched


def _halves(layer: int, path: str, added: list[Summand] | Unreadable, width: int) -> dict[Site, Tap | str]:
    """Where what attention adds and what the MLP adds are read, or why that cannot be told."""
    sites = Site("attn", layer), Site("mlp", layer)
    if isinstance(added, Unreadable):
        return dict.fromkeys(sites, added.why)
    attends = [any(map(_ATTENTION.match, summand.half)) for summand in added]
    if len(added) != 2 or not any(attends):
        terms = ", ".join(summand.path for summand in added) or "nothing"
        return dict.fromkeys(sites, f"its block adds {terms}, not attention and an MLP")
    pair = added if attends[0] else added[::-1]
    return {site: Tap(f"{path}.{half.path}", width, scale=half.scale) for site, half in zip(sites, pair, strict=True)}
