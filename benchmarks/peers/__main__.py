"""Print the tables of docs/benchmarks.md about other systems: `make bench-peers`."""

import argparse
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.peers.environment import (
    DICTIONARY_LEARNING,
    LLAMASCOPIUM,
    OVERCOMPLETE,
    PEERS,
    SAELENS,
    Environment,
    python_of,
)
from benchmarks.peers.prepare import prepare
from benchmarks.peers.session import ROOT
from benchmarks.peers.side_by_side import Bench, System
from benchmarks.peers.table import harvest_table, left_in_memory, read_table

_FOLDER = ROOT / "build" / "peers"
_HERE = Path(sys.executable)
_OURS = System("garner", "garner", _HERE, "harvest")
_CEILINGS = (
    System("forward", "the forward pass alone", _HERE, "harvest", reads=False),
    System("memmap", "`memmap[permutation]`", _HERE, "write"),
)
_FILLS = {SAELENS: "harvest", LLAMASCOPIUM: "harvest", DICTIONARY_LEARNING: "nothing", OVERCOMPLETE: "write"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Environments, harvests, reads, and the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--only", choices=[one.name for one in PEERS], help="one system beside garner, not all")
    only = parser.parse_args(arguments).only
    before = os.getloadavg()
    peers = [_peer(one) for one in PEERS if only in (None, one.name)]
    bench = Bench(prepare(_FOLDER / "material"), _FOLDER, [_OURS, *_CEILINGS, *peers])
    bench.harvest()
    bench.read()
    lines, ours = bench.lines(), bench.line(_OURS)
    print(harvest_table(lines, ours), read_table(lines, ours), _machine(before, left_in_memory(lines)), sep="\n\n")


def _peer(environment: Environment) -> System:
    """With its interpreter, or with the reason why there is none."""
    print(f"{environment.name}: environment ...", file=sys.stderr, flush=True)
    python, error = _HERE, ""
    try:
        python = python_of(environment, _FOLDER)
    except RuntimeError as reason:
        error = str(reason)
    return System(environment.name, environment.title, python, _FILLS[environment], error=error)


def _machine(before: tuple[float, float, float], left: float) -> str:
    load = " to ".join(f"{one[0]:.1f}" for one in (before, os.getloadavg()))
    return (
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}; load {load}; cold: "
        f"POSIX_FADV_DONTNEED of every file, after which mincore found at most {left:.1%} of a store in memory"
    )


if __name__ == "__main__":
    main()
