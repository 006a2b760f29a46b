"""Marks against runs, pins and other gcs: every interleaving of what each of them asks of the store, in both orders."""

import itertools
import threading
import time

import pytest

from pipeline.keeping import marked, pinned
from storage import InputError, Lake
from storage.collect import collect
from storage.lease import Lease, LeaseLost, take
from storage.manifest import CacheIdentity, ModelIdentity, make_record
from storage.pins import pins
from storage.references import references
from storage.removal import PURGING, REMOVED, alone, going, keep, mark, purge, removed
from storage.url import Folder
from tests.storage.test_sweep import DAY, artifact_of

_numbers = itertools.count()
_URL = "memory://removal"
SHARD = "segments/00000/sites/resid.0/c.0.0"


def lake_of():
    """An empty lake; the one before goes, for fsspec looks through all that is in memory to list any of it."""
    Folder.at(_URL).remove("")
    return Lake(_URL)


def cache_of(lake, shard=b"rows"):
    """A cache as `rm` and `gc` see one."""
    model = ModelIdentity(name="tiny", revision="", weights="", config="", dtype="float32")
    identity = CacheIdentity(model=model, tokenizer="", corpus={}, tokenisation={}, dtype="float32")
    cache = lake.create(make_record("tiny.words", identity, {}))
    cache.folder.create(SHARD, shard)
    cache.folder.create("segments/00000/tokens/part-00000.parquet", b"tokens")
    return cache


class At:
    """Calls `then` when the store gets its request number `k` of those that this thread makes; counts them."""

    def __init__(self, monkeypatch, k, then):
        self.n, self._thread = 0, threading.get_ident()
        for name in ("_ask", "create"):
            real = getattr(Folder, name)

            def request(folder, *words, real=real):
                if threading.get_ident() == self._thread:
                    self.n += 1
                    if self.n == k + 1:
                        then()
                return real(folder, *words)

            monkeypatch.setattr(Folder, name, request)


class Run:
    """`garner run`, step by step: it was planned when the cache was not marked."""

    def __init__(self, lake, cache, name):
        self.lake, self.cache, self.name = lake, cache, name
        self.at, self.refused, self.wrote = 0, False, False
        self.lease = None

    def go(self, stop):
        for step in (self.take, self.look, self.write, self.end)[self.at : stop]:
            step()
        self.at = max(self.at, stop)

    def take(self):
        uses = (f"caches/{self.cache.id}", f"artifacts/{self.name}")
        self.lease = take(self.lake.folder, f"run.{self.name}", uses=uses, beat=0.01)

    def look(self):
        self.refused = going(self.cache.folder)

    def write(self):
        if not self.refused:
            assert self.cache.folder.read(SHARD) == b"rows"
            artifact_of(self.lake, self.name, self.cache)
            self.wrote = True

    def end(self):
        self.lease.release()


def interleaved(monkeypatch, remove):
    """`remove` with the run's steps [a, b) at each of its requests, those before earlier and those after later."""
    for a, b in itertools.combinations_with_replacement(range(5), 2):
        for k in itertools.count():
            lake = lake_of()
            cache = cache_of(lake)
            run = Run(lake, cache, f"sae-{next(_numbers):012d}")
            run.go(a)
            with monkeypatch.context() as patch:
                requests = At(patch, k, lambda run=run, b=b: run.go(b))
                said = remove(lake, cache)
                done = requests.n
            run.go(4)
            yield run, said, f"steps {a} to {b} at request {k}"
            if k >= done or a == b:
                break


def test_rm_marks_nothing_that_a_run_used_and_a_run_uses_nothing_marked(monkeypatch):
    def rm(lake, cache):
        try:
            return list(marked(lake, [cache.id], ""))
        except InputError:
            return None

    counts = {"removed": 0, "refused": 0}
    for run, said, where in interleaved(monkeypatch, rm):
        assert run.cache.folder.exists(SHARD), where
        assert not (run.wrote and removed(run.cache.folder)), where
        assert removed(run.cache.folder) == (said is not None), where
        counts["removed" if said else "refused"] += 1
    assert min(counts.values()) > 0, "both came first at times"


def test_gc_removes_nothing_that_a_run_saw_unmarked(monkeypatch):
    """The cache is marked after some of the run's steps, and gc takes the mark for old."""

    def gc(lake, cache):
        mark(cache.folder, REMOVED)
        now = lake.folder.clock() + 9 * DAY
        return [one.action for one in collect(lake, DAY, lambda: now)]

    counts = {"purge": 0, "keep": 0}
    for run, said, where in interleaved(monkeypatch, gc):
        assert run.cache.folder.exists(SHARD) or not run.wrote, where
        assert not (run.wrote and run.cache.folder.exists(PURGING)), where
        for action in counts:
            counts[action] += action in said
    assert min(counts.values()) > 0, "both came first at times"


@pytest.mark.parametrize("how", ["rm", "gc"])
def test_a_pin_and_a_removal_see_each_other(monkeypatch, how):
    def gc(lake):
        now = lake.folder.clock() + 9 * DAY
        return list(collect(lake, DAY, lambda: now))

    for k in itertools.count():
        lake = lake_of()
        cache = cache_of(lake)

        def pin(lake=lake, cache=cache):
            try:
                list(pinned(lake, [cache.id], "", undo=False))
            except InputError:
                assert how == "gc" or removed(cache.folder)

        with monkeypatch.context() as patch:
            requests = At(patch, k, pin)
            if how == "rm":
                try:
                    list(marked(lake, [cache.id], ""))
                except InputError:
                    assert pins(lake.folder)
            else:
                mark(cache.folder, REMOVED)
                gc(lake)
            done = requests.n
        if pins(lake.folder):
            assert cache.folder.exists(SHARD), f"pinned at request {k}"
            assert how == "gc" or not removed(cache.folder), f"pinned at request {k}"
        if k >= done:
            break


def test_an_artifact_that_is_made_again_while_gc_removes_it_is_whole(monkeypatch):
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.002)))
    for k in itertools.count():
        lake = lake_of()
        name = artifact_of(lake, "sae-000000000001")
        mark(lake.artifact_folder(name), REMOVED)

        def again(lake=lake, name=name):
            with take(lake.folder, "run.x", uses=(f"artifacts/{name}",), beat=0.01):
                keep(lake.folder, f"artifacts/{name}")
                artifact_of(lake, name)

        run = threading.Thread(target=again)

        def begin(run=run):
            run.start()
            run.join(0.02)  # it may have to wait for this very gc

        now = lake.folder.clock() + 9 * DAY
        with monkeypatch.context() as patch:
            requests = At(patch, k, begin)
            list(collect(lake, DAY, lambda now=now: now))
            done = requests.n
        if k >= done:
            break
        run.join()
        assert lake.artifacts() == (name,), k
        assert lake.artifact(name).read("weights.bin") == name.encode(), k


def test_a_gc_that_slept_through_its_lease_removes_nothing_of_what_was_made_anew(monkeypatch):
    for k in itertools.count():
        lake = lake_of()
        cache = cache_of(lake, b"old rows")
        mark(cache.folder, REMOVED)
        check, asked = Lease.check, iter(range(1000))

        def late(lease, lake=lake, asked=asked, k=k, check=check):
            """The lease has gone to somebody who asked for the cache again."""
            if next(asked) == k:
                claim = lake.folder.read(f"leases/{lease.holder.name}/00000001.json")
                lake.folder.create(f"leases/{lease.holder.name}/00000002.json", claim)
                cache_of(lake, b"new rows")
            check(lease)

        now = lake.folder.clock() + 9 * DAY
        with monkeypatch.context() as patch:
            patch.setattr(Lease, "check", late)
            found = list(collect(lake, DAY, lambda now=now: now))
        if next(asked) <= k:
            break
        assert [one.action for one in found] == ["keep"], k
        assert "gave no sign of life" in found[0].why
        assert cache.folder.read(SHARD) in (b"old rows", b"new rows"), k
        assert lake.caches() == (cache.id,), k
        assert not cache.folder.exists(PURGING), k
    assert k > 3, "there were moments to lose it at"


def test_a_purge_is_not_begun_over_by_one_who_lost_the_lease():
    lake = lake_of()
    cache = cache_of(lake)
    mark(cache.folder, REMOVED)
    with alone(lake.folder, f"caches/{cache.id}") as lease:
        claim = lake.folder.read(f"leases/cache.{cache.id}/00000001.json")
        lake.folder.create(f"leases/cache.{cache.id}/00000002.json", claim)
        with pytest.raises(LeaseLost):
            purge(cache.folder, lease.check)
    assert cache.folder.exists(SHARD)


def test_what_goes_while_references_are_read_is_no_reference(monkeypatch):
    lake = lake_of()
    name = artifact_of(lake, "sae-000000000001")
    list(pinned(lake, [name], "", undo=False))
    gone, names = Lake.artifacts, Folder.names

    def artifacts(lake):
        found = gone(lake)
        purge(lake.artifact_folder(name))
        return found

    def listed(folder, below=""):
        found = names(folder, below)
        if below == "pins":
            folder.remove(below)
        return found

    monkeypatch.setattr(Lake, "artifacts", artifacts)
    monkeypatch.setattr(Folder, "names", listed)
    seen = references(lake)
    assert (seen.records, seen.pinned) == ({}, {})


def test_a_name_that_looks_like_a_pattern_removes_only_itself():
    one, other = Folder.at("memory://team-1"), Folder.at("memory://team-[12]")
    for folder in (one, other):
        folder.create("sites/module:h.*/c.0.0", b"")
        folder.create("sites/module:h.1/c.0.0", b"")
    other.remove("sites/module:h.*")
    assert {one.path for one in other.tree()} == {"sites/module:h.1/c.0.0"}
    other.remove("")
    assert (len(one.tree()), other.tree()) == (2, ())
