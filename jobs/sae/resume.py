"""Checkpoints of trainings that share their batches: a killed one goes on at the very next batch."""

import logging
import time
from collections.abc import Sequence

import numpy as np
from safetensors.numpy import load, save

from jobs.sae.train import Training
from storage.artifact import VERSION
from storage.checkpoint import Checkpoints
from storage.shuffle import Position, Shuffled

log = logging.getLogger("garner.sae")

EVERY = 120.0
"""Seconds between checkpoints: writing one takes about as long as a few hundred steps."""
_VERSION, _NONE = (np.frombuffer(version.encode(), np.uint8) for version in (VERSION, ""))


class Resume:
    """The trainings of some artifacts, which are killed and continued together."""

    def __init__(self, groups: Sequence[Sequence[Training]], stores: Sequence[Checkpoints]) -> None:
        """`groups[n]` are the trainings whose states go to `stores[n]`."""
        self._groups, self._stores = groups, stores
        self._lap = 0
        self._order: Shuffled[np.ndarray] | None = None
        self._last = time.monotonic()

    def position(self) -> tuple[int, Position]:
        """In which lap training goes on and where, with every coder as it was there; the start if nothing was kept."""
        for number in self._stores[0].numbers():
            found = [store.read(number) for store in self._stores]
            states = [load(data) for data in found if data is not None]
            if len(states) == len(found) and _alike(states):
                for group, arrays in zip(self._groups, states, strict=True):
                    _restore(group, arrays)
                lap, epoch, batch = _place(states[0])
                log.info("going on from a checkpoint, after %d rows of lap %d", self._seen, lap + 1)
                return lap, Position(epoch=epoch, batch=batch)
        return 0, Position()

    def follow(self, lap: int, order: Shuffled[np.ndarray]) -> None:
        """What the position of later checkpoints is asked of."""
        self._lap, self._order = lap, order

    def after(self, trainings: Sequence[Training]) -> None:
        """Behind every batch: keep a checkpoint where the last one is long ago."""
        if time.monotonic() - self._last >= EVERY:
            self.keep(trainings)
            self._last = time.monotonic()

    def keep(self, trainings: Sequence[Training]) -> None:
        """Keep a checkpoint now; those before it go once all stores have it."""
        assert self._order is not None
        position = np.array([self._lap, self._order.position.epoch, self._order.position.batch])
        for training in trainings:
            training.require_finite()
        number = self._seen
        for group, store in zip(self._groups, self._stores, strict=True):
            states = {f"{n}.{name}": a for n, one in enumerate(group) for name, a in one.state().items()}
            store.write(number, save({"version": _VERSION, "position": position, **states}))
        for store in self._stores:
            store.keep_only([number])
        for training in trainings:
            training.kept_at = training.seen

    @property
    def _seen(self) -> int:
        """Rows that all of them learnt from: it rises with every batch."""
        return sum(training.seen for group in self._groups for training in group)


def _alike(states: Sequence[dict[str, np.ndarray]]) -> bool:
    """Whether all are of this version of garner, and of one place: studies may be grouped otherwise now."""
    if not all(np.array_equal(arrays.get("version", _NONE), _VERSION) for arrays in states):
        log.warning("a checkpoint of another version of garner is passed over")
        return False
    return len({_place(arrays) for arrays in states}) == 1


def _place(arrays: dict[str, np.ndarray]) -> tuple[int, int, int]:
    lap, epoch, batch = (int(n) for n in arrays["position"])
    return lap, epoch, batch


def _restore(group: Sequence[Training], arrays: dict[str, np.ndarray]) -> None:
    for n, training in enumerate(group):
        prefix = f"{n}."
        training.restore({name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)})
