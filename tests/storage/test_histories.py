"""Random histories of a lake: whatever people, runs, and a gc that is killed now and then do, what is needed stays."""

import itertools
from datetime import timedelta

import numpy as np
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pipeline.keeping import marked, unmarked
from storage import Cache, InputError, Lake, Site
from storage.collect import collect
from storage.layout import shard_bytes
from storage.lease import take
from storage.manifest import Claim, SourceFile
from storage.pins import pin, unpin
from storage.references import locate
from storage.removal import EXPIRED, PURGING, alone, going, keep, removed
from storage.retention import retain
from storage.segment import part_name
from storage.sweep import find, look
from storage.tokens import write_part
from storage.url import _MEMORY_LOCK, Folder
from storage.value import Value
from storage.verify import verify
from tests.conftest import Doc, spans_of, write_site
from tests.storage.test_sweep import DAY, X_ND, artifact_of, cache_of

_lakes = itertools.count()
GRACE = 2 * DAY
ROWS = np.tile(X_ND, (20, 1))
"""Of any cache; five for each segment."""


class KilledError(Exception):
    """The gc's process ends here."""


class Work(Value):
    """What a run makes: an artifact of some segments of a cache, which may go on from another."""

    name: str
    cache: str
    first: int
    stop: int
    previous: str = ""

    @property
    def below(self):
        """Paths that it stands on."""
        return {f"caches/{self.cache}", *([f"artifacts/{self.previous}"] if self.previous else [])}


def grow(cache, dies=False):
    """Finish the newest segment, or add one, as a harvest does; one that dies leaves it without a seal."""
    with alone(Folder(cache.folder.url.rpartition("/caches/")[0]), f"caches/{cache.id}"):
        cache = Cache(cache.folder)
        segment = cache.segments[-1] if cache.segments and not cache.segments[-1].sealed else cache.next_segment()
        files = (SourceFile(path=f"{segment.number}.txt", size=1),)
        claim = Claim(files=files, parts=((0,),), unit=256, shard_bytes=shard_bytes(), compress="none")
        segment.claim(claim)
        write_part(segment.folder, part_name(0), spans_of([Doc("a b c"), Doc("d e")]))
        segment.fix()
        if not dies:
            rows = ROWS[5 * segment.number : 5 * segment.number + 5]
            write_site(segment, Site.parse("resid.0"), rows, "float32")


class History(RuleBasedStateMachine):
    """Some caches that grow; runs at every stage of theirs; readers that hold no lease; people who remove."""

    def __init__(self):
        super().__init__()
        self.lake = Lake(f"memory://history-{next(_lakes)}")
        self.numbers = itertools.count(100)  # of this history, so that names sort the same when it is played again
        self.ahead = 0.0
        self.pinned, self.marks, self.plans = set(), set(), []
        self.runs, self.readers = {}, []
        self.touched = False
        self.made = {}
        """The work of every artifact that was recorded, and was not marked."""

    def teardown(self):
        for lease, _ in self.runs.values():
            lease.release()
        self.lake.folder.remove("")  # fsspec looks through all that is in memory to list any of it

    def pass_by(self, days):
        """Time goes by: what is in the lake grows older."""
        self.ahead += days * DAY
        above = f"{self.lake.folder.url.removeprefix('memory:/')}/"
        with _MEMORY_LOCK:
            for path, file in MemoryFileSystem.store.items():
                if path.startswith(above):
                    file.created -= timedelta(days=days)

    def some(self, n, names):
        return sorted(names)[n % len(names)]

    def any_path(self, n):
        return locate(self.lake, self.some(n, [*self.lake.caches(), *self.lake.artifacts()]))

    def needed(self):
        """Paths that must stay, by the model alone."""
        used = {path for _, work in self.runs.values() for path in (*work.below, f"artifacts/{work.name}")}
        stood_on = {path for work in self.made.values() for path in work.below}
        return used | stood_on | self.pinned

    @initialize(days=st.sampled_from([1, 5, None]), pinned=st.booleans())
    def begin(self, days, pinned):
        """A cache of four segments, and artifacts of the first two, one of which goes on from the other."""
        cache = cache_of(self.lake, segments=4, name="m000.words")
        for name, previous in (("sae-000000000000", ""), ("sae-000000000001", "sae-000000000000")):
            self.made[name] = Work(name=name, cache=cache.id, first=0, stop=2, previous=previous)
            artifact_of(self.lake, name, cache, (0, 2), previous)
        retain(self.lake.folder, f"caches/{cache.id}", None if days is None else days * DAY)
        if pinned:
            pin(self.lake.folder, "artifacts/sae-000000000001", "")
            self.pinned.add("artifacts/sae-000000000001")

    @rule()
    def harvest(self):
        if len(self.lake.caches()) < 2:
            cache_of(self.lake, segments=2, name=f"m{next(self.numbers)}.words")

    @precondition(lambda self: self.lake.caches())
    @rule(n=st.integers(0, 9), dies=st.booleans())
    def harvest_more(self, n, dies):
        cache = self.lake.cache(self.some(n, self.lake.caches()))
        if cache.n_claimed < 15:
            grow(cache, dies)

    @precondition(lambda self: any(path.startswith("caches/") for path in self.marks))
    @rule(n=st.integers(0, 9))
    def harvest_what_was_marked(self, n):
        """It stays as it is, or is made anew if some of it has gone."""
        path = self.some(n, [path for path in self.marks if path.startswith("caches/")])
        self.touched = True
        data = (self.lake.folder / path).find("cache.json")
        if data is not None:
            cache = Cache(self.lake.folder / path)
            with alone(self.lake.folder, path):
                self.lake.create(cache.record)
            self.marks.discard(path)
            if not Cache(cache.folder).segments:
                grow(cache)

    @precondition(lambda self: self.lake.caches())
    @rule(n=st.integers(0, 9), goes_on=st.booleans())
    def plan_a_run(self, n, goes_on):
        cache = self.lake.cache(self.some(n, self.lake.caches()))
        shown = [segment.number for segment in cache.segments if segment.sealed]
        previous = self.some(n, self.made) if goes_on and self.made else ""
        name = f"sae-{next(self.numbers):012d}"
        self.plans.append(Work(name=name, cache=cache.id, first=shown[0], stop=shown[-1] + 1, previous=previous))

    @precondition(lambda self: self.plans)
    @rule()
    def begin_a_run(self):
        """As `garner run` does: the lease, and then the look for marks; maybe long after it was planned."""
        work, number = self.plans.pop(), next(self.numbers)
        uses = (*work.below, f"artifacts/{work.name}")
        lease = take(self.lake.folder, f"run.{number}", uses=uses, beat=0.01)
        first = self.lake.folder / f"caches/{work.cache}/segments/{work.first:05d}"
        if any(going(self.lake.folder / path) for path in work.below) or first.exists(EXPIRED):
            lease.release()
        elif self.lake.cache(work.cache).n_claimed < work.stop:
            lease.release()  # it was made anew since, and is shorter: the job says so
        else:
            path = f"artifacts/{work.name}"
            keep(self.lake.folder, path)
            self.marks.discard(path)
            if not going(self.lake.folder / path):
                self.made[work.name] = work  # it was marked, and is as it was
            self.runs[number] = (lease, work)

    @precondition(lambda self: self.runs)
    @rule(n=st.integers(0, 9), dies=st.booleans())
    def end_a_run(self, n, dies):
        lease, work = self.runs.pop(self.some(n, self.runs))
        if not dies:
            artifact_of(self.lake, work.name, self.lake.cache(work.cache), (work.first, work.stop), work.previous)
            self.made[work.name] = work
        lease.release()

    @precondition(lambda self: self.made)
    @rule(n=st.integers(0, 9))
    def plan_what_was_made_once(self, n):
        self.plans.append(self.made[self.some(n, self.made)])

    @precondition(lambda self: self.lake.caches())
    @rule(n=st.integers(0, 9))
    def open_a_notebook(self, n):
        cache = self.lake.cache(self.some(n, self.lake.caches()))
        self.readers.append((self.ahead, cache, cache.site("resid.0")))

    @precondition(lambda self: self.lake.caches() or self.lake.artifacts())
    @rule(n=st.integers(0, 9))
    def remove(self, n):
        path = self.any_path(n)
        try:
            list(marked(self.lake, [path.partition("/")[2]], "history"))
        except InputError:
            assert path in self.with_below(self.needed()), f"nothing keeps {path}"
        else:
            assert path not in self.with_below(self.needed()), f"{path} was needed"
            self.marks.add(path)
            self.made.pop(path.partition("/")[2], None)

    def with_below(self, paths):
        """The paths, and what pinned artifacts among them stand on."""
        found, more = set(), set(paths)
        while more:
            found |= more
            works = [self.made[path.partition("/")[2]] for path in more if path.partition("/")[2] in self.made]
            more = {path for work in works for path in work.below} - found
        return found

    @precondition(lambda self: self.marks)
    @rule(n=st.integers(0, 9))
    def undo(self, n):
        path = self.some(n, self.marks)
        name = path.partition("/")[2]
        self.touched = True
        try:
            list(unmarked(self.lake, [name]))
        except InputError:
            return  # purged, or half, or what it was made from is gone
        self.marks.discard(path)
        if path.startswith("artifacts/"):
            record = self.lake.artifact(name).record
            (one,) = record.inputs.values()
            work = Work(name=name, cache=one.cache, first=one.first, stop=one.segments, previous=record.previous)
            self.made[name] = work

    @precondition(lambda self: self.lake.caches() or self.lake.artifacts())
    @rule(n=st.integers(0, 9))
    def pin(self, n):
        path = self.any_path(n)
        pin(self.lake.folder, path, "")
        self.pinned.add(path)

    @precondition(lambda self: self.pinned)
    @rule(n=st.integers(0, 9))
    def unpin(self, n):
        path = self.some(n, self.pinned)
        unpin(self.lake.folder, path)
        self.pinned.discard(path)

    @precondition(lambda self: self.lake.caches() or self.lake.artifacts())
    @rule(n=st.integers(0, 9), days=st.sampled_from([1, 5, None]))
    def retain(self, n, days):
        retain(self.lake.folder, self.any_path(n), None if days is None else days * DAY)

    @rule(days=st.sampled_from([0.0, 0.5, 3.0, 3.0]), kill=st.one_of(st.none(), st.integers(0, 12)))
    def gc(self, days, kill):
        """A gc some days later, killed before its removal number `kill`; one that is not does what it said before."""
        self.pass_by(days)
        self.touched = True
        real, left = Folder.remove, iter(range(10**6 if kill is None else kill))

        def remove(folder, name):
            if "leases" not in folder.url and not name.startswith("probe-") and next(left, None) is None:
                raise KilledError
            real(folder, name)

        now = self.lake.folder.clock()
        foreseen = list(find(self.lake, look(self.lake, GRACE, lambda: now)))
        needed = self.with_below(self.needed())
        Folder.remove = remove
        try:
            done = list(collect(self.lake, GRACE, lambda: now))
        except KilledError:
            done = foreseen
        finally:
            Folder.remove = real
        assert done == foreseen
        for one in done:
            if one.action == "mark":
                assert one.path not in needed
                if (self.lake.folder / one.path).exists("removed.json"):
                    self.marks.add(one.path)
                    self.made.pop(one.path.partition("/")[2])

    @invariant()
    def what_artifacts_stand_on_is_whole(self):
        for name, work in self.made.items():
            assert self.lake.artifact(name).read("weights.bin") == name.encode()
            for path in work.below:
                assert not going(self.lake.folder / path), f"{path}, which {name} stands on, is marked"
            folder = self.lake.folder / f"caches/{work.cache}"
            for number in range(work.first, work.stop):
                for part in ("tokens/part-00000.parquet", "sealed/resid.0.json", "sites/resid.0/c.0.0", "plan.json"):
                    assert folder.exists(f"segments/{number:05d}/{part}"), f"{name} stands on {part} of {number}"

    @invariant()
    def what_runs_use_and_people_pinned_is_there(self):
        for _, work in self.runs.values():
            shown = Cache(self.lake.folder / f"caches/{work.cache}", (work.first, work.stop))
            np.testing.assert_array_equal(shown.site("resid.0")[:], ROWS[5 * work.first : 5 * work.stop])
            assert not any(going(self.lake.folder / path) for path in work.below)
        for path in self.with_below(self.pinned):
            assert not going(self.lake.folder / path), f"{path} is pinned"

    @invariant()
    def notebooks_can_read_for_a_grace(self):
        self.readers = [one for one in self.readers if self.ahead - one[0] < GRACE]
        for _, cache, acts in self.readers:
            first = cache.segments[0].number
            np.testing.assert_array_equal(acts[:], ROWS[5 * first : 5 * first + len(acts)])

    @invariant()
    def what_can_be_seen_is_sound(self):
        for name in self.lake.caches():
            cache = self.lake.cache(name)
            assert not cache.folder.exists(PURGING)
            assert cache.segments[0].sealed, "the newest that is sealed never expires"
            assert not self.touched or all(not one.findings for one in verify(cache)), f"{name} is damaged"
        self.touched = False

    @invariant()
    def nothing_went_that_nobody_marked(self):
        for name in self.made:
            assert not removed(self.lake.artifact_folder(name))
        for path in self.marks:
            assert path.partition("/")[2] not in (*self.lake.caches(), *self.lake.artifacts())


History.TestCase.settings = settings(
    max_examples=20,
    stateful_step_count=50,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],  # to shrink a history takes minutes
    suppress_health_check=list(HealthCheck),
)
TestHistories = History.TestCase
