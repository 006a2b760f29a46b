"""A live model for jobs: the one that made a cache, its sites read and edited by hooks, and its next-token loss.

B: sequences of a forward, T: tokens of its longest, N: tokens of all, d: width of a site, V: vocabulary.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from storage.errors import InputError, RunError
from storage.manifest import ModelIdentity
from storage.sequences import Sequence as TokenSequence
from storage.site import Site
from workers import checkpoint, generate
from workers.batches import padded
from workers.logits import Head, head, score
from workers.model import LM, ModelSpec
from workers.model import load as load_model
from workers.sketch import Sketch, sketch
from workers.taps import Tap, first_input, first_tensor

Edit = Callable[[Tensor], Tensor]

_UNEMBED = Site("unembed")
_BLOCK_ROWS = 1024
"""Rows whose losses are taken at once, which bounds the columns of logits they ask for."""
_AHEAD = 0.01
"""Change of a state, as a share of its norm, that no rounding explains."""


def load(source: str, made: ModelIdentity, device: str) -> "Live":
    """The model at `source` once it is known to be `made`, the one in a cache's record; else `InputError`."""
    resolved = checkpoint.resolve(source, made.revision)
    found = {"weights": checkpoint.weights_digest(*resolved), "config": checkpoint.config_digest(*resolved)}
    for what, digest in found.items():
        if digest != getattr(made, what):
            raise InputError(
                f"the model at {source!r} is not the {made.name!r} that made the cache: the SHA-256 of its {what} "
                f"begins {digest[:12]}, in the cache's record {getattr(made, what)[:12]}; bring that model back, or "
                "run the cache's recipe with this one, which makes a cache of its own"
            )
    drawn = sketch(*resolved)
    if drawn.kind != "text":
        raise InputError(f"model {source!r} reads images: jobs run live models on token ids alone")
    spec = ModelSpec(source=source, revision=made.revision, device=device, dtype=made.dtype)
    return Live(load_model(spec, with_head=_has_head(*resolved)), drawn)


class Live:
    """A loaded model that takes sequences of token ids; what `jobs.core.model.Model` says of it holds."""

    def __init__(self, lm: LM, drawn: Sketch) -> None:
        self._lm, self._drawn = lm, drawn
        self._kept_BT: Tensor | None = None
        """Which tokens of the forward under way are real; None between forwards, when nothing is edited."""
        self._ahead = self._reads_ahead()

    @property
    def device(self) -> torch.device:
        """Where inputs go."""
        return self._lm.device

    def d(self, site: Site) -> int:
        """Width of a site; `InputError` where this model has none."""
        return self._tap(site).width

    def read(self, sequences: Sequence[np.ndarray], sites: Sequence[Site]) -> Mapping[Site, Tensor]:
        """What stands at each site, float32 [N, d], edits included; each sequence has a token at least."""
        for site in sites:
            self._tap(site)
        batch = [TokenSequence(0, np.asarray(ids), None) for ids in sequences]
        ids_BT, mask_BT = padded(batch, torch.tensor([len(ids) for ids in sequences]))
        self._kept_BT = kept_BT = mask_BT.bool()
        try:
            found = self._lm.read({"input_ids": ids_BT, "attention_mask": mask_BT}, sites)
        finally:
            self._kept_BT = None
        return {site: x_BTd[kept_BT.to(x_BTd.device)].to(self.device).float() for site, x_BTd in found.items()}

    @contextmanager
    def edit(self, site: Site, fn: Edit) -> Iterator[None]:
        """While it is open, forwards go on with `fn` of what stands at `site`; the hook is gone afterwards."""
        tap = self._tap(site)
        module = self._lm.module.get_submodule(tap.path)

        def entering(_: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any] | None:
            if (new := self._edited(site, tap, first_input(args, kwargs), fn)) is None:
                return None
            if args:
                return _exchanged(args, new), kwargs
            return args, {**kwargs, "hidden_states": _exchanged(kwargs["hidden_states"], new)}

        def leaving(_: object, args: object, output: object) -> object:
            new = self._edited(site, tap, first_tensor(output), fn)
            return None if new is None else _exchanged(output, new)

        hook = (
            module.register_forward_pre_hook(entering, with_kwargs=True)
            if tap.inward
            else module.register_forward_hook(leaving)
        )
        with hook:
            yield

    def logits(self, x_ND: Tensor) -> Tensor:
        """float32 [N, V] of rows of `unembed`."""
        return self._score(x_ND, range(self._head.vocabulary))[:, :-1]

    def loss(self, sequences: Sequence[np.ndarray]) -> Tensor:
        """-log p of the token after each, in nats, float32 [N]; NaN where none follows."""
        if self._ahead:
            raise InputError(
                f"model {self._lm.spec.source!r} has no next-token loss: what it makes of a token depends on those "
                "after it (a masked language model); name a decoder, or leave out what needs a loss"
            )
        x_Nd = self.read(sequences, [_UNEMBED])[_UNEMBED]
        after_N = np.concatenate([np.append(ids[1:], -1) for ids in sequences])
        loss_N = torch.full(after_N.shape, torch.nan, device=x_Nd.device)
        followed = np.flatnonzero(after_N >= 0)
        for at in range(0, len(followed), _BLOCK_ROWS):
            rows_n = followed[at : at + _BLOCK_ROWS]
            ids_K, column_n = np.unique(after_N[rows_n], return_inverse=True)
            scores_nK = self._score(x_Nd[rows_n], ids_K.tolist())
            loss_N[rows_n] = scores_nK[:, -1] - scores_nK[range(len(rows_n)), column_n]
        return loss_N

    def generate(
        self, sequences: Sequence[np.ndarray], n_new: int, temperature: float = 0.0, seed: int = 0
    ) -> np.ndarray:
        """What the model goes on with, int64 [B, n_new], edits included; an end-of-sequence token ends nothing."""
        ids_BT = generate.check(sequences, n_new, self._drawn.context)
        past, generator = generate.attention_cache(self._lm), torch.Generator().manual_seed(seed)
        new: list[Tensor] = []
        for _ in range(n_new):
            self._kept_BT = torch.ones(ids_BT.shape, dtype=torch.bool)
            try:
                last_Bd = self._lm.go_on(ids_BT, past)[:, -1]
            finally:
                self._kept_BT = None
            if not new:
                generate.require_kept(past, ids_BT.shape[1], self._lm.spec.source)
            new.append(generate.pick(self.logits(last_Bd.to(self.device).float()), temperature, generator).cpu())
            ids_BT = new[-1][:, None]
        return torch.stack(new, 1).numpy()

    def _edited(self, site: Site, tap: Tap, x: Tensor | None, fn: Edit) -> Tensor | None:
        """What stands there after the edit, in the shape and number type it came in; None where nothing is edited."""
        if self._kept_BT is None:  # the head asks the body for nothing but what it is given
            return None
        if x is None or x.shape[-1] != tap.width:
            raise RunError(
                f"module {tap.path!r} gave no tensor of width {tap.width}: the model is not the one inspected"
            )
        kept_BT = self._kept_BT.to(x.device)
        with torch.inference_mode(False), torch.no_grad():  # what `fn` keeps must be of use elsewhere
            x_BTd = x.reshape(*kept_BT.shape, tap.width).clone()
            old_Nd = x_BTd[kept_BT].float() * tap.scale
            new_Nd = fn(old_Nd.to(self.device))
            if new_Nd.shape != (wanted := (len(old_Nd), tap.width)):
                raise RunError(f"an edit of {site} gave shape {list(new_Nd.shape)}, wanted {list(wanted)}")
            x_BTd[kept_BT] = (new_Nd.to(x.device) / tap.scale).to(x.dtype)
            return x_BTd.reshape(x.shape)

    def _score(self, x_Nd: Tensor, ids_K: Sequence[int]) -> Tensor:
        """[N, K + 1]: logits of those tokens, and the log-sum-exp of all."""
        dtype: torch.dtype = getattr(torch, self._lm.spec.dtype)
        return score(self._lm.whole, self._head, x_Nd.to(dtype), ids_K).clone()

    def _tap(self, site: Site) -> Tap:
        if site.kind in ("mass", "logits"):
            raise InputError(f"site {site} is worked out beside the forward: of a live model name a hidden state")
        return self._drawn.anatomy.tap(site)

    @cached_property
    def _head(self) -> Head:
        """`InputError` where the model was saved without one."""
        return head(*checkpoint.resolve(self._lm.spec.source, self._lm.spec.revision))

    def _reads_ahead(self) -> bool:
        """Whether the states of earlier tokens change with the last token; two forwards of one shape round alike."""
        ids_T = np.arange(5) % self._drawn.vocabulary
        one, other = (self.read([np.append(ids_T[:4], last)], [_UNEMBED])[_UNEMBED][:4] for last in ids_T[[4, 0]])
        return bool((one - other).norm() > _AHEAD * one.norm())


def _has_head(source: str, revision: str) -> bool:
    try:
        head(source, revision)
    except InputError:
        return False
    return True


def _exchanged(value: Any, new: Tensor) -> Any:
    """What a module takes or gives, with `new` in the place where `first_tensor` finds the hidden states."""
    if isinstance(value, Tensor):
        return new
    if isinstance(value, Mapping):
        first = next(iter(value))
        return type(value)(**{**value, first: _exchanged(value[first], new)})
    return type(value)([_exchanged(value[0], new), *value[1:]])
