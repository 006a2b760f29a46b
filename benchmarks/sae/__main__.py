"""`make bench-sae`: a TopK step of garner and of other systems, interleaved, and their errors after the same rows."""

import argparse
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.peers.environment import DICTIONARY_LEARNING, OVERCOMPLETE, SAELENS, python_of
from benchmarks.peers.session import ROOT

_WORKER = Path(__file__).parent / "worker.py"
_TITLES = {one.name: one.title for one in (SAELENS, DICTIONARY_LEARNING, OVERCOMPLETE)} | {"garner": "garner"}
_ROUND = 5
"""Steps that a system takes before it is the next one's turn."""


@dataclass
class System:
    """One worker under way."""

    name: str
    process: subprocess.Popen[str]
    seconds: list[float] = field(default_factory=list)
    """Per step, of each round."""

    def ask(self, line: str) -> float:
        """Send a line and wait for the number that comes back."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(line, file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self.name} ended with {self.process.wait()}: its own message is above")
        return float(answer)


def main() -> None:
    """Every setting in turn."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sae", description=__doc__)
    parser.add_argument("--steps", type=int, default=100, help="of each system (100)")
    parser.add_argument("--shapes", nargs="*", default=["128:1024:16", "512:4096:32"], help="d:width:k (%(default)s)")
    arguments = parser.parse_args()
    folder = ROOT / "build" / "peers"
    pythons = {one.name: python_of(one, folder) for one in (SAELENS, DICTIONARY_LEARNING, OVERCOMPLETE)}
    print(f"load {os.getloadavg()[0]:.1f}, one thread each, batches of 2048 rows, float32\n")
    for shape in arguments.shapes:
        d, width, k = map(int, shape.split(":"))
        _compare(d, width, k, arguments.steps, {"garner": Path(sys.executable), **pythons})


def _compare(d: int, width: int, k: int, steps: int, pythons: dict[str, Path]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        rows = Path(scratch) / "rows.npy"
        np.save(rows, _rows(d))
        words = [str(rows), str(width), str(k), "2048", str(steps)]
        systems = [System(name, _begin(python, name, words)) for name, python in pythons.items()]
        for one in systems:
            one.ask("1")  # what is made at the first step
        for _ in range(steps // _ROUND):
            for one in systems:
                one.seconds.append(one.ask(str(_ROUND)) / _ROUND)
        _print(d, width, k, systems)
        for one in systems:
            one.process.communicate()


def _rows(d: int) -> np.ndarray:
    """60,000 rows of 4 d planted atoms, 24 of them each, with some noise; a dimension's variance is 1."""
    rng = np.random.default_rng(0)
    atoms = rng.standard_normal((4 * d, d)).astype(np.float32)
    x = 0.3 * rng.standard_normal((60_000, d)).astype(np.float32)
    for part in np.array_split(np.arange(len(x)), 60):
        z = np.zeros((len(part), 4 * d), np.float32)
        np.put_along_axis(z, rng.integers(0, 4 * d, (len(part), 24)), rng.uniform(0.5, 1.5, (len(part), 24)), axis=1)
        x[part] += z @ atoms
    x -= x.mean(0)
    return x / x.std()


def _begin(python: Path, name: str, words: list[str]) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [str(python), str(_WORKER), name, *words]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def _print(d: int, width: int, k: int, systems: list[System]) -> None:
    ours = systems[0].seconds
    print(f"d = {d}, width = {width}, k = {k}\n\n| | ms a step | garner is faster by | FVU after the same rows |")
    print("| --- | --- | --- | --- |")
    for one in systems:
        ratio = median(theirs / mine for theirs, mine in zip(one.seconds, ours, strict=True))
        faster = "" if one.name == "garner" else f"{ratio:.1f} x"
        print(
            f"| {_TITLES[one.name]} | {1000 * median(one.seconds):.0f} | {faster} | {one.ask('fvu'):.3f} |", flush=True
        )
    print()


if __name__ == "__main__":
    main()
