"""Reading sites inside one forward pass of an unchanged model, which ends at the deepest of them.

B: sequences, T: tokens, d: the site's width.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from storage.errors import RunError
from storage.site import Site


@dataclass(frozen=True)
class Tap:
    """Where a site's rows pass: the output (or, `inward`, the first input) of the module at `path`, times `scale`."""

    path: str
    width: int
    inward: bool = False
    scale: float = 1.0


class _AllRead(Exception):  # noqa: N818 (no error: it ends the forward)
    """Ends a forward pass whose remaining blocks nobody asked for."""


class Found:
    """What one forward pass has given of the sites wanted; the pass ends with the last of them."""

    def __init__(self, wanted: Iterable[Site]) -> None:
        self._wanted = tuple(dict.fromkeys(wanted))
        self._rows: dict[Site, Tensor] = {}

    def keep(self, site: Site, x_BTd: Tensor) -> None:
        """Take what stands at a site."""
        if site in self._rows:
            raise RunError(f"site {site} ran twice in one forward: read another site")
        self._rows[site] = x_BTd
        if len(self._rows) == len(self._wanted):
            raise _AllRead

    def rows(self) -> dict[Site, Tensor]:
        """All sites, in the order wanted."""
        if missing := [str(site) for site in self._wanted if site not in self._rows]:
            raise RunError(f"sites {', '.join(missing)} did not run in this forward: read other sites")
        return {site: self._rows[site] for site in self._wanted}


def read(model: nn.Module, taps: Mapping[Site, Tap], batch: int, forward: Callable[[], object], found: Found) -> None:
    """Adds what passes at each tap to `found` while `forward` runs; hooks are gone afterwards, whatever happens."""

    def keep(site: Site, tap: Tap, value: object) -> None:
        found.keep(site, _rows(value, tap, batch))

    with ExitStack() as hooks:
        for site, tap in taps.items():
            hooks.enter_context(_hooked(model, site, tap, keep))
        with suppress(_AllRead):
            forward()


def first_tensor(value: object) -> Tensor | None:
    """The hidden states in what a module takes or gives: itself, or the first of a tuple or model output."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, tuple | list) and value:
        return first_tensor(value[0])
    return None


def first_input(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
    """The hidden states among a module's arguments, passed by position or as `hidden_states`."""
    return first_tensor(args) if args else first_tensor(kwargs.get("hidden_states"))


def _hooked(
    model: nn.Module, site: Site, tap: Tap, keep: Callable[[Site, Tap, object], None]
) -> torch.utils.hooks.RemovableHandle:
    module = model.get_submodule(tap.path)
    if tap.inward:
        return module.register_forward_pre_hook(
            lambda _, args, kwargs: keep(site, tap, first_input(args, kwargs)), with_kwargs=True
        )
    return module.register_forward_hook(lambda _, args, output: keep(site, tap, output))


def _rows(value: object, tap: Tap, batch: int) -> Tensor:
    """[B, T, d] of its own: later modules may add to the original in place, as Falcon does to its MLP's output."""
    x = first_tensor(value)
    if x is None or x.shape[-1] != tap.width:
        raise RunError(f"module {tap.path!r} gave no tensor of width {tap.width}: the model is not the one inspected")
    x_BTd = x.reshape(batch, -1, tap.width)
    return x_BTd * tap.scale if tap.scale != 1.0 else x_BTd.clone()
