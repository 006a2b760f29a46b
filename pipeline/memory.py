"""What a harvest holds in memory at once: said by `garner plan`, and refused where this machine has less."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from storage.errors import InputError
from storage.layout import Layout, memory_bound
from storage.manifest import SourceFile
from storage.value import Value
from workers.overlap import AHEAD, BEHIND

_PROCESS = 500 * 2**20
"""Python, torch, transformers, pyarrow and a tokenizer; 470 MiB were measured."""
_TOKENS = 8
"""Bytes held for each byte of a corpus file while its tokens are indexed; 5.4 were measured on JSON lines."""
_STREAMS, _WIDE = 8, 4
"""Copies of the residual stream, and of the widest module's output, that a forward pass holds at once at most."""
_HELD = 2
"""Batches that are in work on each side of a queue: one being made, one being taken."""


class Memory(Value):
    """Bytes that one harvester holds at most, by what for."""

    process: int
    weights: int
    """Twice the parameters: the file is mapped while they are read."""
    forward: int
    batches: int
    """What waits for the model, and rows that wait to be stored; on a GPU they are its own, read and rounded."""
    shards: int
    """Being filled and being written, also while the next unit has begun."""
    tokens: int
    """Of the largest part of the corpus."""

    @property
    def total(self) -> int:
        return self.process + self.weights + self.forward + self.batches + self.shards + self.tokens

    def __str__(self) -> str:
        parts = {"process": self.process, "weights": self.weights, "forward": self.forward}
        parts |= {"batches": self.batches, "shards": self.shards, "tokens": self.tokens}
        listed = ", ".join(f"{name} {size / 2**20:,.0f}" for name, size in parts.items())
        return f"at most {self.total / 2**20:,.0f} MiB of memory a worker ({listed})"


class Model(Value):
    """What of a model sizes its memory."""

    weights: int
    """Bytes of the parameters, an unembedding included where logits are asked for."""
    width: int
    """Of the residual stream."""
    widest: int
    """Of the widest module."""


def of_harvest(layouts: Sequence[Layout], model: Model, batch_tokens: int, part: int) -> Memory:
    """The bound for a harvest of sites that lie so; `part` is the largest token part's files in bytes."""
    return Memory(
        process=_PROCESS,
        weights=2 * model.weights,
        forward=batch_tokens * 4 * (_STREAMS * model.width + _WIDE * model.widest),
        batches=batch_tokens * 4 * _floats(layouts, model),
        shards=memory_bound(layouts),
        tokens=_TOKENS * part,
    )


def _floats(layouts: Sequence[Layout], model: Model) -> int:
    """Numbers held for each token of a batch before and behind the model.

    Inputs count as wide as the stream, which the pixels of a patch are about. A site's rows are held once more while
    they are chosen, and while they are rounded to the stored type.
    """
    sites = [layout.d for layout in layouts]
    return (AHEAD + _HELD) * model.width + (BEHIND + _HELD) * sum(sites) + 2 * max(sites, default=0)


def largest_part(parts: Iterable[Iterable[SourceFile]]) -> int:
    """Bytes of the largest token part's files."""
    return max((sum(file.size for file in files) for files in parts), default=0)


def check(where: str, memory: Memory, workers: int) -> None:
    """`InputError` where shards and weights alone are more than this machine has."""
    wanted, there = (memory.shards + memory.weights) * workers, machine()
    if wanted > there:
        raise InputError(
            f"{where}: {workers} workers would hold {memory.shards / 2**20:,.0f} MiB of shards and "
            f"{memory.weights / 2**20:,.0f} MiB of weights each, and this machine has {there / 2**20:,.0f} MiB: "
            "set a smaller shard for this cache, or fewer pool.workers"
        )


def machine() -> int:
    """Bytes of memory that this machine, or the control group of this process, has."""
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limits = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
    for limit in limits:
        if limit.exists() and (text := limit.read_text().strip()).isdigit():
            there = min(there, int(text))
    return there
