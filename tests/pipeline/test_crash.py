"""A worker or the driver killed in the middle of a run, or two drivers at once: the cache is the same."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from pipeline.__main__ import main
from pipeline.progress import Progress
from pipeline.run import run
from tests.pipeline import tiny
from tests.pipeline.test_resume import objects

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 200
"""Seconds after which a test that waits for another process gives up."""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, decoder):
    """A corpus of some hundred units of one shard per site, and the recipe that harvests it on Ray."""
    base = tmp_path_factory.mktemp("crash")
    tiny.write_texts(base / "docs" / "a.jsonl", [f"document {n} " + "of some words " * (n % 13) for n in range(90)])
    recipe = tiny.table(decoder, base, sites=["embed", "resid.1"], context=8, unit=64)
    return base, recipe | {"pool": {"kind": "ray", "workers": 2}}


@pytest.fixture(scope="module")
def undisturbed(recipe):
    """The objects of a run that nothing disturbed, in this process."""
    base, table = recipe
    tiny.harvest(table | {"lake": "undisturbed", "pool": {"kind": "local"}}, base)
    return objects(base / "undisturbed")


def marks(lake):
    """Every mark that is there, with what tells whether it was written again."""
    found = {}
    for path in Path(lake).rglob("done/*/*.json"):
        with suppress(FileNotFoundError):
            found[path] = (path.stat().st_ino, path.stat().st_mtime_ns)
    return found


def wait_for(condition, what):
    """The first true value of `condition()`."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if value := condition():
            return value
        time.sleep(0.005)
    raise TimeoutError(f"waited {PATIENCE} s for {what}")


def workers_of(marks):
    """Process ids that the marks name."""
    return {int(tiny.mark(path)["worker"].rpartition(":")[2]) for path in marks}


def alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def descendants(pid):
    """Process ids below one, found while their parents live."""
    children = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            children.setdefault(int(stat.read_text().rpartition(")")[2].split()[1]), []).append(int(stat.parent.name))
    found, left = [], [pid]
    while left:
        left += (below := children.get(left.pop(), []))
        found += below
    return found


@contextmanager
def driver(*arguments):
    """`garner` in a process of its own; what it started and left is killed at the end."""
    command = [sys.executable, "-m", "pipeline", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}  # as an actor has: the last bits follow the number of threads
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # whoever started the tests may have it ignored
    process = subprocess.Popen(command, cwd=ROOT, env=one_thread, start_new_session=True, preexec_fn=heard, **pipes)
    process.below = set()
    try:
        yield process
    finally:
        process.kill()
        process.communicate()
        for pid in process.below:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def started(lake, process, count):
    """The marks once there are so many; notes what the process has started."""
    found = wait_for(lambda: process.poll() is not None or (len(marks(lake)) >= count and marks(lake)), "marks")
    assert process.poll() is None, process.communicate()
    process.below |= set(descendants(process.pid))
    return found


@pytest.mark.ray
class TestRay:
    def test_a_run_outlives_a_killed_worker(self, recipe, undisturbed, local_ray, caplog):
        base, table = recipe
        lake, progress = base / "worker-killed", Progress(live=False)
        running = threading.Thread(target=run, args=(tiny.read(table | {"lake": str(lake)}, base), progress))
        running.start()
        done = wait_for(lambda: len(marks(lake)) >= 6 and marks(lake), "marks")
        os.kill(next(iter(workers_of(done))), signal.SIGKILL)
        running.join(PATIENCE)
        assert not running.is_alive()
        assert caplog.text.count("a worker was lost") == 1
        assert objects(lake) == undisturbed

    def test_a_killed_drivers_run_is_finished_by_the_next(self, recipe, undisturbed):
        base, table = recipe
        lake, path = base / "driver-killed", tiny.write_recipe(table | {"lake": "driver-killed"}, base)
        with driver("run", path) as process:
            started(lake, process, 20)
            process.kill()
            process.wait()
            wait_for(lambda: not any(map(alive, workers_of(marks(lake)))), "the workers of a dead driver to end")
        before, shards = marks(lake), len(list(lake.rglob("c.*.0")))
        assert 20 <= len(before) < len(marks(base / "undisturbed"))
        recording = tiny.RecordingPool()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("pipeline.run.make_pool", lambda table, lake: recording)
            tiny.harvest(table | {"lake": str(lake)}, base)
        after = marks(lake)
        assert {path: after[path] for path in before} == before
        assert sum(len(task.sites) for task in recording.tasks) == len(after) - len(before)
        assert len(list(lake.rglob("c.*.0"))) - shards <= len(after) - len(before)
        assert objects(lake) == undisturbed

    def test_ctrl_c_ends_a_run_with_one_line_and_the_next_completes_it(self, recipe, undisturbed):
        base, table = recipe
        lake, path = base / "interrupted", tiny.write_recipe(table | {"lake": "interrupted"}, base)
        with driver("run", path) as process:
            started(lake, process, 4)
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all that it runs
            out, err = process.communicate(timeout=PATIENCE)
            assert (process.returncode, out) == (130, "")
            assert [line for line in err.splitlines() if not line.startswith("texts: ")] == [
                "garner: stopped; what is finished stays, and the same command goes on from there"
            ]
        assert len(marks(lake)) < len(marks(base / "undisturbed"))
        assert main(["run", path, "--set", "pool.kind=local"]) == 0
        assert objects(lake) == undisturbed


def test_two_drivers_at_once_make_one_right_cache(decoder, tmp_path):
    tiny.write_texts(tmp_path / "docs" / "a.jsonl", [f"document {n} " + "of some words " * (n % 13) for n in range(40)])
    table = tiny.table(decoder, tmp_path, sites=["embed", "resid.1"], context=8, unit=64)
    path = tiny.write_recipe(table | {"lake": "raced"}, tmp_path)
    with driver("run", path) as one, driver("run", path) as other:
        said = [process.communicate(timeout=PATIENCE) for process in (one, other)]
        assert (one.returncode, other.returncode) == (0, 0), said
    tiny.harvest(table | {"lake": "alone"}, tmp_path)
    assert objects(tmp_path / "raced") == objects(tmp_path / "alone")
