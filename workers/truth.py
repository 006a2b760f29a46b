"""What plain transformers gives for one sequence alone: what the rows of a cache are compared with.

T: tokens of the sequence, N: its rows, H: query heads, K: tokens of a set, d: width of a site.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModel

from storage.errors import RunError
from storage.sequences import Sequence as TokenSequence
from storage.site import FIRST, Site
from storage.tokens import ROLES
from workers import checkpoint, images
from workers.batches import padded
from workers.mass import Attention
from workers.model import ModelSpec, load, load_weights
from workers.sketch import sketch


class Truth:
    """A loaded model that runs one sequence at a time and says what it gives by itself.

    Hidden states are its `hidden_states`, mass is summed from the `attentions` of the model loaded with eager
    attention, and logits are those of the whole model's own forward; what none of these shows is read by a tap.
    """

    def __init__(self, spec: ModelSpec, kind: str, sets: Mapping[str, Sequence[int]]) -> None:
        self._lm = load(spec, with_head=bool(sets))
        self._kind = kind
        self._sets = sets

    def rows(self, sequence: TokenSequence, sites: Sequence[Site]) -> dict[Site, np.ndarray]:
        """The sequence's rows at each site, float32 [N, d]."""
        if self._kind == "entries":
            ids_N = torch.from_numpy(sequence.input_ids.astype(np.int64))
            return {site: _array(self._lm.table(site, ids_N)) for site in sites}
        found = self._read(sequence, sites)
        kept = slice(-len(sequence.input_ids), None)  # of an image, patches come last
        rows = slice(None) if sequence.rows is None else sequence.rows
        return {site: _array(found[site][0, kept])[rows] for site in sites}

    def _read(self, sequence: TokenSequence, sites: Sequence[Site]) -> dict[Site, Tensor]:
        inputs = self._inputs(sequence)
        found = _outputs(self._lm.module, inputs)
        if any(site.kind == "mass" for site in sites):
            found |= self._masses(sequence, inputs, [site for site in sites if site.kind == "mass"])
        if logits := [site for site in sites if site.kind == "logits"]:
            found |= self._logits(inputs, logits)
        rest = [site for site in sites if site not in found]
        return found | (self._lm.read(inputs, rest) if rest else {})

    def _inputs(self, sequence: TokenSequence) -> dict[str, Tensor]:
        if self._kind == "patches":
            spec = self._lm.spec
            processor = images.load_processor(spec.source, spec.revision)
            return {"pixel_values": images.pixels(processor, [sequence.image or b""])}
        return {"input_ids": padded([sequence], torch.tensor([len(sequence.input_ids)]))[0]}

    def _masses(
        self, sequence: TokenSequence, inputs: Mapping[str, Tensor], sites: Sequence[Site]
    ) -> dict[Site, Tensor]:
        """[1, T, H] of each site: attention probabilities, summed over the keys of its span."""
        model, layers = self._eager
        with torch.inference_mode():
            attentions = model(**inputs, output_attentions=True).attentions
        if len(attentions) != len(layers):
            raise RunError(f"{type(model).__name__} gives {len(attentions)} attentions for {len(layers)} blocks")
        by_layer = dict(zip(layers, attentions, strict=True))
        return {
            site: by_layer[site.layer].float()[..., _keys(sequence, site.path)].sum(-1).transpose(1, 2)
            for site in sites
        }

    def _logits(self, inputs: Mapping[str, Tensor], sites: Sequence[Site]) -> dict[Site, Tensor]:
        """[1, T, K + 1] of each site."""
        whole: Callable[..., Any] = self._lm.whole
        with torch.inference_mode():
            logits_1TV = whole(**inputs).logits.float()
        total_1T1 = logits_1TV.logsumexp(-1, keepdim=True)
        return {site: torch.cat([logits_1TV[..., list(self._sets[site.path])], total_1T1], -1) for site in sites}

    @cached_property
    def _eager(self) -> tuple[Any, list[int]]:
        """The model with eager attention, and the blocks whose attention it shows."""
        spec = self._lm.spec
        attentions = sketch(*checkpoint.resolve(spec.source, spec.revision)).anatomy.attentions
        layers = [layer for layer, found in enumerate(attentions) if isinstance(found, Attention)]
        return load_weights(AutoModel, spec, "eager"), layers


def _outputs(model: Any, inputs: Mapping[str, Tensor]) -> dict[Site, Tensor]:
    """What plain transformers returns by itself: every block's output but the last, whose entry is after the norm."""
    with torch.inference_mode():
        out = model(**inputs, output_hidden_states=True)
    states = out.hidden_states
    found = {Site("embed"): states[0], Site("unembed"): out.last_hidden_state}
    return found | {Site("resid", layer): states[layer + 1] for layer in range(len(states) - 2)}


def _keys(sequence: TokenSequence, span: str) -> Tensor:
    """Positions of the span's tokens."""
    if span == FIRST:
        return torch.tensor([0])
    return torch.from_numpy(np.flatnonzero(sequence.roles == ROLES.index(span)))


def _array(x: Tensor) -> np.ndarray:
    return np.asarray(x.float().cpu().numpy())
