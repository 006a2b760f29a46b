"""Who is compared, and what kinds of coder each of them trains."""

import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.environment import DICTIONARY_LEARNING, OVERCOMPLETE, SAELENS, Environment, python_of
from benchmarks.peers.session import ROOT
from benchmarks.sae.task import Kind

SPARSIFY = Environment("sparsify", "sparsify 1.3.3", ("torch==2.13.0", "eai-sparsify==1.3.3", "transformers==5.23.0"))
KINDS: dict[Environment, tuple[Kind, ...]] = {
    SAELENS: ("topk", "batch_topk", "relu", "jump_relu"),
    DICTIONARY_LEARNING: ("topk", "batch_topk", "relu", "jump_relu"),
    OVERCOMPLETE: ("topk", "batch_topk", "relu"),
    SPARSIFY: ("topk",),
}
"""What each of the others trains."""


@dataclass(frozen=True)
class System:
    """One that is compared."""

    name: str
    """Of its module here."""
    title: str
    python: Path
    kinds: tuple[Kind, ...]


def systems() -> list[System]:
    """garner first, then those whose environment could be made; who could not is told on standard error."""
    found = [System("garner", "garner", Path(sys.executable), ("topk", "batch_topk", "relu", "jump_relu"))]
    for environment, kinds in KINDS.items():
        try:
            python = python_of(environment, ROOT / "build" / "peers")
        except RuntimeError as reason:
            print(f"{environment.title} is left out: {reason}", file=sys.stderr)
            continue
        found.append(System(environment.name, environment.title, python, kinds))
    return found
