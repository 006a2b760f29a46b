"""The rows of a site, or of several side by side, on two sides of a split by document: to train on, and to measure on.

N rows, H held-out rows, B rows of a batch, D dimensions of an input, E of a target.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from jobs.core.context import Context, Read
from jobs.core.splits import split_documents
from jobs.core.tensors import as_tensor
from jobs.sae.config import Config, Source
from jobs.sae.parts import Batch
from storage.cache import Cache
from storage.errors import InputError
from storage.index import TokenIndex
from storage.joined import Joined
from storage.moments import Moments
from storage.reader import Activations
from storage.shuffle import Position, Shuffled
from storage.site import Site

_MASK_ROWS = 1 << 20


@dataclass(frozen=True)
class Rows:
    """The rows of the sources, on two sides of a split by document."""

    acts: Activations | Joined
    tokens: TokenIndex
    training_N: np.ndarray
    """Whether each row belongs to a training document."""
    held_H: np.ndarray
    """Numbers of the rows of held-out documents."""
    batch: int
    device: str
    n_inputs: int
    """Sources that are read, the first ones; a transcoder's target is one more, else they are the target."""

    @property
    def sources(self) -> tuple[Activations, ...]:
        """Inputs, then the target of a transcoder."""
        return self.acts.sources if isinstance(self.acts, Joined) else (self.acts,)

    @property
    def inputs(self) -> tuple[Moments, ...]:
        """Moments of every source that is read."""
        return tuple(source.moments for source in self.sources[: self.n_inputs])

    @property
    def targets(self) -> tuple[Moments, ...] | None:
        """Moments of what is predicted; none where it is what is read."""
        return tuple(source.moments for source in self.sources[self.n_inputs :]) or None

    @property
    def target_mean_E(self) -> np.ndarray:
        """Of the rows that are rebuilt."""
        return np.concatenate([one.mean for one in self.targets or self.inputs])

    def order(self, seed: int, epochs: int, position: Position | None = None) -> Shuffled[np.ndarray]:
        """Training rows in random order, as they are stored."""
        return self.acts.shuffled(
            batch=self.batch, seed=seed, epochs=epochs, keep=self.training_N, position=position or Position()
        )

    def shuffled(self, seed: int, epochs: int) -> Iterator[Batch]:
        """Training rows in random order."""
        return (self.sides(x_BD) for x_BD in self.order(seed, epochs))

    def held(self) -> Iterator[tuple[np.ndarray, Batch]]:
        """Held-out rows in order: (row numbers, rows)."""
        for at in range(0, len(self.held_H), self.batch):
            rows_B = self.held_H[at : at + self.batch]
            yield rows_B, self.at(rows_B)

    def at(self, rows_B: np.ndarray) -> Batch:
        """Rows by their numbers."""
        return self.sides(self.acts[rows_B])

    def sides(self, rows_BD: np.ndarray) -> Batch:
        """What is read and what is to be rebuilt, of stored rows."""
        whole = as_tensor(rows_BD, self.device)
        if self.targets is None:
            return Batch(whole, whole)
        d = sum(source.d for source in self.sources[: self.n_inputs])
        return Batch(whole[:, :d].contiguous(), whole[:, d:].contiguous())


def sources(config: Config) -> tuple[Source, ...]:
    """All that is read, each with its cache: the input or inputs, and a transcoder's target."""
    named = (Source(site=config.site), *config.beside, *([config.target] if config.target else []))
    return tuple(Source(site=one.site, cache=one.cache or config.cache) for one in named)


def reads(config: Config) -> tuple[Read, ...]:
    """Every cache once, with the sites that are read there."""
    found: dict[str, list[Source]] = {}
    for one in sources(config):
        found.setdefault(one.cache, []).append(one)
    if config.loss == "cache":
        found[config.cache].append(Source(site=Site("unembed"), cache=config.cache))
    if config.unembed:
        found.setdefault(config.unembed, []).append(Source(site=Site("unembed"), cache=config.unembed))
    return tuple(Read(cache=name, sites=tuple(dict.fromkeys(s.site for s in some))) for name, some in found.items())


def split_rows(config: Config, ctx: Context) -> Rows:
    """The sources' rows by side; what cannot be trained on is refused."""
    named = sources(config)
    cache = ctx.cache(config.cache)
    for name in {one.cache for one in named} - {config.cache}:
        _require_same_tokens(cache, ctx.cache(name))
    opened = [ctx.cache(one.cache).site(one.site) for one in named]
    for one, acts in zip(named, opened, strict=True):
        _require_finite(acts, ctx.cache(one.cache))
    training_N, held_H = _sides(config, cache, len(opened[0]))
    return Rows(
        acts=opened[0] if len(opened) == 1 else Joined(opened),
        tokens=cache.tokens,
        training_N=training_N,
        held_H=held_H,
        batch=config.batch,
        device=ctx.device,
        n_inputs=1 + len(config.beside),
    )


def _sides(config: Config, cache: Cache, n_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Whether each row is trained on, and the numbers of those that are held out."""
    tokens = cache.tokens
    held_D = split_documents(tokens.document_ids, validation=0, test=config.held_out, seed=config.seed).test
    held_N = np.concatenate([held_D[tokens.documents(span)] for span in _spans(n_rows)] or [np.zeros(0, bool)])
    n_held = int(held_N.sum())
    if min(n_held, len(held_N) - n_held) < 2:
        raise InputError(
            f"held_out = {config.held_out} of cache {cache.id} leaves {len(held_N) - n_held} rows to train on and "
            f"{n_held} to measure on: harvest more documents, or change held_out or seed"
        )
    return ~held_N, np.flatnonzero(held_N)


def _require_finite(acts: Activations, cache: Cache) -> None:
    if acts.moments.nonfinite:
        raise InputError(
            f"site {acts.site} of cache {cache.id} has {acts.moments.nonfinite} rows with NaN or infinite entries: "
            "training wants finite rows, so harvest again in a wider number type"
        )


def _require_same_tokens(one: Cache, other: Cache) -> None:
    """Sources of several caches are of the same tokens, row by row."""
    same = one.tokens.n_rows == other.tokens.n_rows and all(
        np.array_equal(one.tokens.ids(span), other.tokens.ids(span)) for span in _spans(one.tokens.n_rows)
    )
    if not same:
        raise InputError(
            f"caches {one.id} and {other.id} do not hold the same tokens row by row: sources side by side want models "
            "of one tokenizer, harvested over the same files in the same order"
        )


def _spans(n: int) -> Sequence[slice]:
    return [slice(at, min(at + _MASK_ROWS, n)) for at in range(0, n, _MASK_ROWS)]
