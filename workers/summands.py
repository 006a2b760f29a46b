"""What the halves of a block add to the residual stream, read off the sums of one forward.

A block starts from its input, the stream. Its output shows what was added to the stream and times what, whether the
addition stands in the block (Llama), inside its halves (BLOOM), before a norm (BERT), after one (Gemma 2), for both
halves at once (Phi) or in place (Falcon). Nothing here knows a family by name.
"""

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from workers.sums import Sum, Sums
from workers.taps import first_input, first_tensor


@dataclass(frozen=True)
class Summand:
    """`scale` times the output of one module of the block."""

    path: str
    """The module, within the block."""
    scale: float
    half: tuple[str, ...]
    """The modules that ran for it: those since the summand before."""


@dataclass(frozen=True)
class Unreadable:
    """A block's output is no sum of its input and outputs of its modules; why."""

    why: str


class Block:
    """Watches one block of a model during a forward under `sums`; afterwards `added` says what it added."""

    def __init__(self, sums: Sums, block: nn.Module, once: Container[nn.Module]) -> None:
        """`once`: the modules that run a single time in a forward. The hooks stay: the model is a throw-away."""
        self.added: list[Summand] | Unreadable = Unreadable("the block did not run")
        self._sums = sums
        self._stream = -1
        self._normed: dict[int, Sum] = {}
        self._made: dict[int, str] = {}
        self._ran: list[tuple[int, str]] = []
        block.register_forward_pre_hook(self._enter, with_kwargs=True)
        for path, module in block.named_modules():
            if path and module in once:
                module.register_forward_hook(self._on_exit(path), with_kwargs=True)
        block.register_forward_hook(self._leave)

    def _enter(self, _: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        x = first_input(args, kwargs)
        if x is not None:
            self._stream = self._sums.renew(x)

    def _on_exit(self, path: str) -> Callable[..., None]:
        def exit_(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: object) -> None:
            x, y = first_input(args, kwargs), first_tensor(output)
            if y is None or y is x:
                return
            total = self._sums.of(y)
            if x is not None and "norm" in type(module).__name__.lower():
                source = self._sums.of(x)
                self._made[atom := self._sums.renew(y)] = path
                self._normed[atom] = source
            elif not any(self._carries(atom) for atom in total):
                self._made[self._sums.renew(y)] = path
            self._ran.append((self._sums.atoms, path))

        return exit_

    def _leave(self, _: nn.Module, args: tuple[Any, ...], output: object) -> None:
        y = first_tensor(output)
        self.added = Unreadable("it gives no tensor") if y is None else self._summands(self._sums.of(y))

    def _carries(self, atom: int) -> bool:
        """Whether an atom is the stream, or a norm of a sum in which the stream is."""
        return atom == self._stream or any(self._carries(inner) for inner in self._normed.get(atom, {}))

    def _summands(self, total: Sum) -> list[Summand] | Unreadable:
        terms = self._terms(total)
        if isinstance(terms, Unreadable):
            return terms
        if unnamed := [atom for atom in terms if atom not in self._made]:
            return Unreadable(f"{len(unnamed)} of the {len(terms)} terms it adds are the output of no module")
        ends = sorted(terms)
        return [
            Summand(self._made[atom], terms[atom], self._between(start, atom + 1))
            for start, atom in zip([-1, *ends], ends, strict=False)
        ]

    def _terms(self, total: Sum) -> Sum | Unreadable:
        """Atoms added to the stream, from the last norm of it inwards."""
        streams = [atom for atom in total if self._carries(atom)]
        if len(streams) != 1 or total[streams[0]] != 1.0:
            return Unreadable("its output is not its input plus something")
        added = {atom: c for atom, c in total.items() if atom != streams[0]}
        if streams[0] == self._stream:
            return added
        inner = self._terms(self._normed[streams[0]])
        return inner if isinstance(inner, Unreadable) else inner | added

    def _between(self, after: int, until: int) -> tuple[str, ...]:
        return tuple(path for atoms, path in self._ran if after + 1 < atoms <= until)
