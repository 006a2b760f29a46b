"""Whatever was left by a run that ended too early, the next run finishes it: the same objects with the same bytes."""

import json
import threading

import numpy as np
import pytest

import storage.url
from tests.pipeline import tiny

_ATTEMPT = ("attempt", "worker", "seconds", "made", "crc32c")
"""Fields of marks and of cache.json that tell who wrote them and when, and their checksum."""


class Died(BaseException):
    """The end of a process: nothing catches it, and nothing is created after it."""


class MortalStore:
    """Creates objects as `storage.url` does, until the process dies after the nth."""

    def __init__(self, monkeypatch, lives):
        self.count = 0
        self._lives, self._lock = lives, threading.Lock()
        self._create = storage.url._create_local
        monkeypatch.setattr("storage.url._create_local", self)

    def __call__(self, path, parts):
        with self._lock:
            self.count += 1
            if self.count > self._lives:
                raise Died
            created = self._create(path, parts)
            if self.count == self._lives:
                raise Died
            return created


def objects(lake):
    """Every object of a lake with its bytes; of marks and of cache.json, what does not depend on who wrote them.

    Temporary files and probes of the store, which a process that dies may leave, are no objects of a cache, nor is
    what tells who ran when.
    """
    found = {}
    for path in sorted((lake / "caches").rglob("*")):
        if path.is_file() and not path.name.startswith((".", "probe-")):
            name = str(path.relative_to(lake))
            signed = "/done/" in name or path.name == "cache.json"
            found[name] = _unsigned(path) if signed else path.read_bytes()
    return found


def _unsigned(path):
    return {key: value for key, value in json.loads(path.read_bytes()).items() if key not in _ATTEMPT}


@pytest.fixture
def recipe(decoder, tmp_path, short_shards):
    """A long document, whose sequences each touch five shards and one both units, among short ones, several a batch."""
    short = [f"n {n}"[: n % 4 + 1] for n in range(12)]
    words = ["", *short, "a few words", "the long one " * 11, "b", *short]
    tiny.write_texts(tmp_path / "docs" / "a.jsonl", words)
    return tiny.table(decoder, tmp_path, unit=128, sites=["embed", "resid.0"])


@pytest.fixture
def undisturbed(recipe, tmp_path):
    """The objects of a run that nothing disturbed."""
    tiny.harvest(recipe | {"lake": "undisturbed"}, tmp_path)
    return objects(tmp_path / "undisturbed")


def test_a_run_that_dies_after_any_object_is_finished_by_the_next(recipe, undisturbed, tmp_path, monkeypatch):
    n, died = 0, True
    while died:
        n += 1
        lake = f"died-{n}"
        with monkeypatch.context() as patch:
            store = MortalStore(patch, n)
            try:
                tiny.harvest(recipe | {"lake": lake}, tmp_path)
            except Died:
                died = True
            else:
                died = False
        with monkeypatch.context() as patch:
            patch.setattr("storage.lease.gone", lambda process, died=died: died)  # as if the process had died
            tiny.harvest(recipe | {"lake": lake}, tmp_path)
        assert objects(tmp_path / lake) == undisturbed, f"died after object {n}"
    assert n == store.count + 1 > 40


@pytest.mark.parametrize("seed", range(12))
def test_shards_without_a_mark_are_adopted_and_only_the_others_are_made(recipe, undisturbed, tmp_path, seed):
    lake = tmp_path / "undisturbed"
    shards = sorted(lake.rglob("c.*.0"))
    kept = {
        path for path, keep in zip(shards, np.random.default_rng(seed).random(len(shards)) < 0.6, strict=True) if keep
    }
    before = {path: path.stat() for path in kept}
    for path in (*(set(shards) - kept), *lake.rglob("done/*/*.json"), *lake.rglob("sealed/*.json")):
        path.unlink()
    tiny.harvest(recipe | {"lake": "undisturbed"}, tmp_path)
    assert objects(lake) == undisturbed
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in kept} == {
        path: (stat.st_ino, stat.st_mtime_ns) for path, stat in before.items()
    }


def test_a_unit_whose_shards_are_all_there_is_marked_without_a_forward_pass(recipe, undisturbed, tmp_path):
    lake = tmp_path / "undisturbed"
    for path in (*lake.rglob("done/*/*.json"), *lake.rglob("sealed/*.json")):
        path.unlink()
    _, progress = tiny.harvest(recipe | {"lake": "undisturbed"}, tmp_path)
    assert progress.forward_tokens == 0
    assert objects(lake) == undisturbed
