"""Which tensors of a forward pass are plain sums of which others."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

Sum = dict[int, float]
"""Atom -> its coefficient."""

_aten = torch.ops.aten
_SAME = {
    _aten.view,
    _aten._unsafe_view,
    _aten._to_copy,
    _aten.alias,
    _aten.clone,
    _aten.detach,
    _aten.expand,
    _aten.reshape,
    _aten.slice,
    _aten.squeeze,
    _aten.unsqueeze,
}
_ADD = {_aten.add: 1.0, _aten.add_: 1.0, _aten.sub: -1.0, _aten.sub_: -1.0}
_MULTIPLY = {_aten.mul, _aten.mul_}
_DIVIDE = {_aten.div, _aten.div_}


class Sums(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has not annotated it
    """While entered, follows every tensor as a sum of atoms with coefficients.

    Additions, views, casts and multiplications by a number keep sums; whatever else gives a tensor makes it a new atom.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.atoms = 0
        """Atoms so far; the next one's number."""
        self._known: dict[int, tuple[Tensor, int, Sum]] = {}
        self._writes: dict[int, int] = {}

    def of(self, x: Tensor) -> Sum:
        """The sum that `x` is now; a tensor never seen, or written to since in an unknown way, is a new atom."""
        kept, writes, total = self._known.get(id(x), (None, -1, {}))
        if kept is None or writes != self._writes.get(_storage(x), 0):
            return {self.renew(x): 1.0}
        return total

    def renew(self, x: Tensor) -> int:
        """Makes `x` an atom and returns its number."""
        self.atoms += 1
        self._keep(x, {self.atoms - 1: 1.0})
        return self.atoms - 1

    def _keep(self, x: Tensor, total: Sum) -> None:
        # The tensor is held so that its id stays its own.
        self._known[id(x)] = (x, self._writes.get(_storage(x), 0), total)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        total = self._total(func.overloadpacket, args, kwargs or {})
        output = func(*args, **(kwargs or {}))
        if func._schema.is_mutable and args and isinstance(args[0], Tensor):
            # Views of the same memory must not keep their old sums.
            self._writes[_storage(args[0])] = self._writes.get(_storage(args[0]), 0) + 1
        if total is not None and output.numel() == args[0].numel():
            self._keep(output, total)
        return output

    def _total(self, op: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Sum | None:
        """The sum that `op` will give; None where it gives something new."""
        if op in _SAME:
            return self.of(args[0])
        if op not in _ADD and op not in _MULTIPLY and op not in _DIVIDE:
            return None
        a, b = args[:2]
        if isinstance(a, Tensor) and isinstance(b, int | float):
            factor = b if op in _MULTIPLY else 1 / b if op in _DIVIDE and b else None
            return None if factor is None else {atom: c * factor for atom, c in self.of(a).items()}
        if op in _ADD and isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape == b.shape:
            return _plus(self.of(a), self.of(b), _ADD[op] * kwargs.get("alpha", 1))
        return None


def _plus(a: Sum, b: Sum, times: float) -> Sum:
    total = {atom: a.get(atom, 0.0) + times * b.get(atom, 0.0) for atom in [*a, *b]}
    return {atom: c for atom, c in total.items() if c}


def _storage(x: Tensor) -> int:
    return int(x.untyped_storage()._cdata)
