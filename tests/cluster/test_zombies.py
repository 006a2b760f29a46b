"""A worker that was taken for dead and goes on: whatever it writes late changes nothing."""

import os
import threading

import pytest

import storage.url
from pipeline.__main__ import main
from tests.pipeline import tiny
from tests.pipeline.test_resume import objects
from workers.harvest import UnitTask
from workers.pool import NEEDS, LocalPool, Place

_ROW = tiny.WIDTH * 4


class Gate:
    """Holds back the nth object that anyone makes from when it is closed, and lets all others through."""

    def __init__(self, inner, nth):
        self._inner, self._left, self._lock = inner, nth, threading.Lock()
        self.closed, self.reached, self.open = False, threading.Event(), threading.Event()

    def __call__(self, *arguments):
        with self._lock:
            self._left -= self.closed
            held = self.closed and self._left == 0
        if held:
            self.reached.set()
            assert self.open.wait(60)
        return self._inner(*arguments)


class HauntedPool(LocalPool):
    """Sends every unit to a zombie as well, which stops at the gate before the living worker begins."""

    def __init__(self, gate):
        super().__init__()
        self.gate, self.late, self.error = gate, [], None
        self.zombie = threading.Thread(target=lambda: None)

    def map(self, make, tasks, needs=NEEDS):
        if isinstance(tasks[0], UnitTask):
            self.gate.closed = True
            self.zombie = threading.Thread(target=self._haunt, args=(make(Place()), tasks))
            self.zombie.start()
            assert self.gate.reached.wait(60)
        yield from super().map(make, tasks, needs)

    def _haunt(self, work, tasks):
        try:
            self.late += [work(task) for task in tasks]
        except BaseException as error:
            self.error = error
            raise


def stamps(lake):
    """Every object, with what tells whether it was written again."""
    stats = {path: path.stat() for path in (lake / "caches").rglob("*.*") if path.is_file()}
    return {path: (stat.st_ino, stat.st_mtime_ns) for path, stat in stats.items() if not path.name.startswith(".")}


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """Three units, each of four shards of two sites."""
    monkeypatch.setattr("storage.layout.CHUNK_BYTES", 4 * _ROW)
    monkeypatch.setattr("storage.layout.SHARD_BYTES", 16 * _ROW)
    monkeypatch.setattr("storage.layout.UNIT_SEQUENCES", 1)
    tiny.write_texts(tmp_path / "docs" / "a.jsonl", [f"document {n} " + "ab cd " * (n % 4) for n in range(9)])
    model = tiny.save_decoder(tmp_path / "model")
    return tiny.table(model, tmp_path, context=32, unit=64, sites=["embed", "resid.1"])


@pytest.mark.parametrize("nth", [1, 5, 9, 10], ids=lambda nth: f"object {nth}")
@pytest.mark.parametrize("where", ["before it looks", "as it links"])
def test_a_zombie_that_wakes_after_the_seal_changes_nothing(recipe, tmp_path, monkeypatch, capsys, where, nth):
    tiny.harvest(recipe | {"lake": "undisturbed"}, tmp_path)
    lake = tmp_path / "haunted"
    gate = Gate(storage.url._create_local if where == "before it looks" else os.link, nth)
    pool = HauntedPool(gate)
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.run.make_pool", lambda table, lake: pool)
        patch.setattr("storage.url._create_local" if where == "before it looks" else "storage.url.os.link", gate)
        cache, _ = tiny.harvest(recipe | {"lake": "haunted"}, tmp_path)
        before = stamps(lake)
        assert cache.segments[0].sealed
        assert pool.zombie.is_alive()
        gate.open.set()
        pool.zombie.join(60)
    assert not pool.zombie.is_alive()
    assert pool.error is None
    assert [receipt.unit for receipt in pool.late] == [0, 1, 2]
    assert stamps(lake) == before
    assert objects(lake) == objects(tmp_path / "undisturbed")
    assert main(["verify", str(lake)]) == 0, capsys.readouterr()
