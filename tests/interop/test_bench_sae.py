"""`make bench-sae`: every system learns the same task, and says so."""

import sys
from pathlib import Path

import pytest

from benchmarks.sae.environment import KINDS, System
from benchmarks.sae.side_by_side import compare
from benchmarks.sae.task import Task
from tests.interop.peers import python_of

SYSTEMS = {environment.name: (environment, kinds) for environment, kinds in KINDS.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["garner", *SYSTEMS])
def test_a_system_learns_every_kind_it_is_listed_with(name):
    environment, kinds = SYSTEMS.get(name, (None, ("topk", "batch_topk", "relu", "jump_relu")))
    python = Path(sys.executable) if environment is None else python_of(environment)
    for kind in kinds:
        task = Task(rows="", kind=kind, width=64, k=4, steps=60, batch=512, threads=1, lr=None)
        courses = compare([System(name, name, python, kinds)], task, 24, [4e-3])[name]
        assert len(courses) == 1
        assert len(courses[0].seconds) == 11  # turns of five steps, less the first
        assert courses[0].fvu < (1.01 if kind == "relu" else 1)  # some penalties are too strong for so small a task
        assert courses[0].l0 > 0
        if kind == "topk":
            assert courses[0].l0 <= 4


def test_a_system_that_fails_says_why():
    task = Task(rows="", kind="topk", width=4, k=8, steps=5, batch=8, threads=1, lr=None)
    with pytest.raises(RuntimeError, match=r"garner ended with 1: .*k is 8 but width is 4"):
        compare([System("garner", "garner", Path(sys.executable), ("topk",))], task, 4, [None])
