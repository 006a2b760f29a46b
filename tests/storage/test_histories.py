"""Random histories of a lake: whatever people, runs, and a gc that is killed now and then do, what is needed stays."""

import itertools

import numpy as np
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pipeline.keeping import marked, unmarked
from storage import Cache, InputError, Lake
from storage.collect import collect
from storage.lease import take
from storage.pins import pin, unpin
from storage.references import locate
from storage.removal import EXPIRED, PURGING, removed
from storage.retention import retain
from storage.url import Folder
from storage.verify import verify
from tests.storage.test_sweep import DAY, X_ND, artifact_of, cache_of

_numbers = itertools.count()
GRACE = 2 * DAY


class KilledError(Exception):
    """The gc's process ends here."""


class History(RuleBasedStateMachine):
    """Caches of three segments; artifacts of some of them; runs that hold their lease."""

    def __init__(self):
        super().__init__()
        self.lake = Lake(f"memory://history-{next(_numbers)}")
        self.ahead = 0.0
        self.pinned, self.runs, self.marks = set(), {}, set()
        self.expected = {}
        """Every artifact that was recorded, and was not marked: its cache and window."""

    def teardown(self):
        for lease, *_ in self.runs.values():
            lease.release()

    def now(self):
        return self.lake.folder.clock() + self.ahead

    def some(self, n, names):
        return sorted(names)[n % len(names)]

    @rule()
    def harvest(self):
        if len(self.lake.caches()) < 3:
            cache_of(self.lake, segments=3, name=f"m{next(_numbers)}.words")

    @precondition(lambda self: self.lake.caches())
    @rule(n=st.integers(0, 9))
    def begin_a_run(self, n):
        """As `garner run` does: planned, then the lease, then the look for marks."""
        cache = self.lake.cache(self.some(n, self.lake.caches()))
        window = (min(one.number for one in cache.segments), cache.n_claimed)
        name, number = f"sae-{next(_numbers):012d}", next(_numbers)
        uses = (f"caches/{cache.id}", f"artifacts/{name}")
        lease = take(self.lake.folder, f"run.{number}", uses=uses, beat=0.01)
        if removed(cache.folder) or (cache.folder / f"segments/{window[0]:05d}").exists(EXPIRED):
            lease.release()
        else:
            self.runs[number] = (lease, cache, window, name)

    @precondition(lambda self: self.runs)
    @rule(n=st.integers(0, 9), dies=st.booleans())
    def end_a_run(self, n, dies):
        number = self.some(n, self.runs)
        lease, cache, window, name = self.runs.pop(number)
        if not dies:
            artifact_of(self.lake, name, cache, window)
            self.expected[name] = (cache.id, window)
        lease.release()

    @precondition(lambda self: self.lake.caches() or self.lake.artifacts())
    @rule(n=st.integers(0, 9))
    def remove(self, n):
        name = self.some(n, [*self.lake.caches(), *self.lake.artifacts()])
        path = locate(self.lake, name)
        stands = any(cache == name for cache, _ in self.expected.values())
        used = any(name in (cache.id, artifact) for _, cache, _, artifact in self.runs.values())
        below = {f"caches/{self.expected[one][0]}" for one in self.expected if f"artifacts/{one}" in self.pinned}
        try:
            list(marked(self.lake, [name], "history"))
        except InputError:
            assert stands or used or path in self.pinned | below, f"nothing keeps {name}"
        else:
            needed = stands or used or path in self.pinned | below
            assert not needed, f"{name} was needed"
            self.marks.add(path)
            self.expected.pop(name, None)

    @precondition(lambda self: self.marks)
    @rule(n=st.integers(0, 9))
    def undo(self, n):
        path = self.some(n, self.marks)
        folder = self.lake.folder / path
        try:
            list(unmarked(self.lake, [folder.name]))
        except InputError:
            return  # purged, or half, or what it was made from is gone
        self.marks.discard(path)
        if path.startswith("artifacts/"):
            (one,) = self.lake.artifact(folder.name).record.inputs.values()
            self.expected[folder.name] = (one.cache, (one.first, one.segments))

    @precondition(lambda self: self.lake.caches() or self.lake.artifacts())
    @rule(n=st.integers(0, 9))
    def pin(self, n):
        path = locate(self.lake, self.some(n, [*self.lake.caches(), *self.lake.artifacts()]))
        pin(self.lake.folder, path, "")
        self.pinned.add(path)

    @precondition(lambda self: self.pinned)
    @rule(n=st.integers(0, 9))
    def unpin(self, n):
        path = self.some(n, self.pinned)
        unpin(self.lake.folder, path)
        self.pinned.discard(path)

    @precondition(lambda self: self.lake.caches())
    @rule(n=st.integers(0, 9), days=st.sampled_from([1, 5, None]))
    def retain(self, n, days):
        path = f"caches/{self.some(n, self.lake.caches())}"
        retain(self.lake.folder, path, None if days is None else days * DAY)

    @rule(days=st.sampled_from([0.5, 3.0]))
    def time_passes(self, days):
        self.ahead += days * DAY

    @rule(kill=st.one_of(st.none(), st.integers(0, 12)))
    def gc(self, kill):
        """A gc, which may be killed before its removal number `kill`."""
        real, left = Folder.remove, iter(range(10**6 if kill is None else kill))

        def remove(folder, name):
            if "leases" not in folder.url and not name.startswith("probe-") and next(left, None) is None:
                raise KilledError
            real(folder, name)

        now = self.now()
        Folder.remove = remove
        try:
            list(collect(self.lake, GRACE, lambda: now))
        except KilledError:
            pass
        finally:
            Folder.remove = real

    @invariant()
    def what_artifacts_stand_on_is_whole(self):
        for name, (cache_id, window) in self.expected.items():
            assert self.lake.artifact(name).read("weights.bin") == name.encode()
            folder = self.lake.folder / f"caches/{cache_id}"
            assert not removed(folder), f"{cache_id}, which {name} was made from, is marked"
            for number in range(*window):
                for part in ("tokens/part-00000.parquet", "sealed/resid.0.json", "sites/resid.0/c.0.0", "plan.json"):
                    assert folder.exists(f"segments/{number:05d}/{part}"), f"{name} stands on {part} of {number}"

    @invariant()
    def what_runs_use_and_people_pinned_is_there(self):
        for _, cache, (first, stop), _ in self.runs.values():
            shown = Cache(cache.folder, (first, stop))
            np.testing.assert_array_equal(shown.site("resid.0")[:], np.tile(X_ND, (3, 1))[5 * first : 5 * stop])
            assert not removed(shown.folder)
        for path in self.pinned:
            assert (self.lake.folder / path).exists("cache.json" if path.startswith("caches/") else "record.json")
            assert not removed(self.lake.folder / path)

    @invariant()
    def what_can_be_seen_is_sound(self):
        for name in self.lake.caches():
            cache = self.lake.cache(name)
            assert not cache.folder.exists(PURGING)
            assert cache.segments[-1].number == cache.n_claimed - 1 == 2, "the last segment never expires"
            assert all(not checked.findings for checked in verify(cache)), f"{name} is damaged"


History.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=25,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],  # to shrink a history takes minutes
    suppress_health_check=list(HealthCheck),
)
TestHistories = History.TestCase
