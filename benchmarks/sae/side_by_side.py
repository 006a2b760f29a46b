"""Trainings of one task by several systems, a few steps of each in turn."""

import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.session import ROOT
from benchmarks.sae.environment import System
from benchmarks.sae.task import HELD, Task

_TURN = 5
"""Steps that a system takes before it is the next one's turn."""


@dataclass(frozen=True)
class Course:
    """How one training went."""

    lr: float | None
    seconds: list[float]
    """Per step, of each turn after the first."""
    fvu: float
    l0: float


class Worker:
    """A system at work in a process of its own, which ends with its standard input."""

    def __init__(self, system: System, task: Task, log: Path) -> None:
        self._log = log
        threads = {name: str(task.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        answers, theirs = os.pipe()  # not standard output, to which some systems print as they are imported
        self._answers = os.fdopen(answers)
        with log.open("w") as said:
            self._process = subprocess.Popen(
                [str(system.python), "-m", f"benchmarks.sae.{system.name}", json.dumps(asdict(task)), str(theirs)],
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=said,
                pass_fds=(theirs,),
                text=True,
                cwd=ROOT,
                env=os.environ | threads | {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled"},
            )
        os.close(theirs)

    def ask(self, line: str) -> Any:
        """The answer, or a `RuntimeError` with the last that the other side said."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # the empty answer says it
            print(line, file=self._process.stdin, flush=True)
        answer = self._answers.readline()
        if not answer:
            said = self._log.read_text().strip().splitlines() or ["no message"]
            raise RuntimeError(f"{self._log.stem} ended with {self._process.wait()}: {said[-1]}")
        return json.loads(answer)

    def close(self) -> None:
        """Let it end."""
        with self._answers, suppress(BrokenPipeError), self._process:
            pass


def compare(systems: Sequence[System], task: Task, d: int, lrs: Sequence[float | None]) -> dict[str, list[Course]]:
    """By system, a course for each learning rate; all systems of one learning rate take turns."""
    found: dict[str, list[Course]] = {one.name: [] for one in systems}
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.npy"
        np.save(rows, planted(d))
        for lr in lrs:
            for name, course in _together(systems, replace(task, rows=str(rows), lr=lr), Path(folder)).items():
                found[name].append(course)
    return found


def _together(systems: Sequence[System], task: Task, folder: Path) -> dict[str, Course]:
    workers = {one.name: Worker(one, task, folder / f"{one.name}.log") for one in systems}
    seconds: dict[str, list[float]] = {name: [] for name in workers}
    try:
        for turn in range(0, task.steps, _TURN):
            steps = min(_TURN, task.steps - turn)
            for name, worker in workers.items():
                seconds[name].append(worker.ask(str(steps)) / steps)
        return {
            name: Course(lr=task.lr, seconds=seconds[name][1:] or seconds[name], **worker.ask("measure"))
            for name, worker in workers.items()
        }
    finally:
        for worker in workers.values():
            worker.close()


def planted(d: int) -> np.ndarray:
    """Rows of 4 d planted directions, 24 of them each, with some noise; mean 0, variance 1 over all."""
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((4 * d, d)).astype(np.float32)
    x = 0.3 * rng.standard_normal((HELD + 56_000, d)).astype(np.float32)
    for part in np.array_split(np.arange(len(x)), 60):
        z = np.zeros((len(part), len(directions)), np.float32)
        chosen = rng.integers(0, len(directions), (len(part), 24))
        np.put_along_axis(z, chosen, rng.uniform(0.5, 1.5, chosen.shape), axis=1)
        x[part] += z @ directions
    x -= x.mean(0)
    return x / x.std()
