"""Harvesters called directly: two units at once, errors of every thread, what is held, and what receipts say."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
import torch

import storage.url
import workers.harvest
from storage.errors import GarnerError, RunError
from storage.layout import memory_bound
from storage.manifest import Claim, SourceFile
from storage.segment import Segment, part_name
from storage.site import Site
from storage.tokens import Span, write_part
from storage.url import Folder
from tests.pipeline import tiny
from workers.harvest import Harvester, HarvestSpec, UnitTask
from workers.model import ModelSpec
from workers.overlap import BEHIND
from workers.pool import Place

SITES = (Site("embed"), Site("resid", 0), Site("resid", 1))
LENGTHS = [1 + 7 * n % 29 for n in range(60)]
UNIT, BATCH_TOKENS, ROW = 128, 64, 4 * tiny.WIDTH


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    yield
    assert [thread for thread in threading.enumerate() if thread.name.startswith("garner-")] == []


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.save_decoder(tmp_path_factory.mktemp("models") / "model")


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Chunks of 4 rows, units and windows of a few shards of 16."""
    monkeypatch.setattr("storage.layout.CHUNK_BYTES", 4 * ROW)
    monkeypatch.setattr("storage.layout.UNIT_SEQUENCES", 1)
    monkeypatch.setattr("storage.layout.WINDOW_ROWS", 32)
    monkeypatch.setattr("storage.manifest.WINDOW_ROWS", 32)


def planned(folder, ids=None, shard=16, unit=UNIT):
    """A segment of random tokens unless they are given, with an array for every site, in shards of so many rows."""
    random = np.random.default_rng(0)
    ids = ids or [random.integers(4, 260, length) for length in LENGTHS]
    segment = Segment(Folder.at(str(folder / "caches" / "tiny.words-0" / "segments" / "00000")), 0)
    files = (SourceFile(path="a", size=1),)
    segment.claim(Claim(files=files, parts=((0,),), unit=unit, shard_bytes=shard * ROW, compress="none"))
    spans = (Span(n, n, f"doc:{n}", one.astype(np.int32), None, None, None, 0, {}, None) for n, one in enumerate(ids))
    write_part(segment.folder, part_name(0), spans)
    segment.fix()
    for site in SITES:
        segment.create_array(site, segment.layout(tiny.WIDTH, "float32"))
    return segment


def harvester(segment, model):
    spec = HarvestSpec(
        model=ModelSpec(source=str(model)),
        segment=segment.folder.url,
        number=0,
        widths={str(site): tiny.WIDTH for site in SITES},
        dtype="float32",
        rows="tokens",
        batch_tokens=BATCH_TOKENS,
        nonfinite=False,
    )
    return Harvester(spec, Place())


def tasks(segment):
    return [UnitTask(unit=unit, sites=SITES) for unit in range(segment.plan.n_units)]


def shards(segment):
    return {str(path.name) + path.parent.name: path.read_bytes() for path in segment.folder.local.rglob("c.*.0")}


class Gate:
    """A disk on which no shard is created until the gate opens."""

    def __init__(self, monkeypatch):
        self._open, self._create = threading.Event(), storage.url._create_local
        monkeypatch.setattr("storage.url._create_local", self)

    def __call__(self, path, parts):
        if "/sites/" in str(path) and "c." in str(path):
            assert self._open.wait(60)
        return self._create(path, parts)

    def open(self):
        self._open.set()


def wait_for(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.005)


class Passes:
    """Counts forward passes of a harvester's model."""

    def __init__(self, harvest):
        self.count = 0
        harvest._lm.module.register_forward_pre_hook(self)

    def __call__(self, *_):
        self.count += 1


class TestTwoUnitsAtOnce:
    def test_have_the_bytes_of_one_after_the_other(self, model, tmp_path):
        alone, together = planned(tmp_path / "alone"), planned(tmp_path / "together")
        one, many = harvester(alone, model), harvester(together, model)
        receipts = [one(task) for task in tasks(alone)]
        with ThreadPoolExecutor(2) as threads:
            overlapping = list(threads.map(many, tasks(together)))
        assert len(receipts) > 5
        assert shards(alone) == shards(together) != {}
        assert [(r.rows, r.forward_tokens, r.bytes) for r in receipts] == [
            (r.rows, r.forward_tokens, r.bytes) for r in overlapping
        ]
        for site in SITES:
            assert together.units_done(site) == set(range(len(receipts)))

    def test_the_model_runs_over_the_next_while_the_last_shards_of_one_are_written(self, model, tmp_path, monkeypatch):
        segment = planned(tmp_path, shard=64)
        harvest, (first, second, *_) = harvester(segment, model), tasks(segment)
        passes, gate = Passes(harvest), Gate(monkeypatch)
        with ThreadPoolExecutor(2) as threads:
            try:
                one = threads.submit(harvest, first)
                wait_for(lambda: passes.count > 0 and not harvest._model.locked())
                before = passes.count
                two = threads.submit(harvest, second)
                wait_for(lambda: passes.count > before)
                assert not one.done()
                assert segment.units_done(SITES[0]) == set()
            finally:
                gate.open()
            assert (one.result().unit, two.result().unit) == (0, 1)


class TestMemory:
    def test_the_model_waits_for_a_disk_that_does_not_write(self, model, tmp_path, monkeypatch):
        segment = planned(tmp_path, unit=512)
        harvest, gate = harvester(segment, model), Gate(monkeypatch)
        passes = Passes(harvest)
        with ThreadPoolExecutor(1) as threads:
            receipt = threads.submit(harvest, tasks(segment)[0])
            wait_for(lambda: passes.count > 0)
            time.sleep(0.3)
            waiting = passes.count
            gate.open()
            assert receipt.result().rows == 512
        assert waiting < passes.count

    def test_shards_of_two_units_at_once_are_as_many_as_plan_counts_for_one(self, model, tmp_path):
        segment = planned(tmp_path)
        harvest, layout = harvester(segment, model), segment.layout(tiny.WIDTH, "float32")
        with ThreadPoolExecutor(2) as threads:
            assert len(list(threads.map(harvest, tasks(segment)))) > 5
        made = sum(buffer.nbytes for buffer in harvest._spare)  # every buffer that was ever needed at once
        assert 0 < made <= memory_bound([layout] * len(SITES)) < segment.plan.rows * ROW

    def test_no_more_batches_of_rows_are_held_than_plan_counts(self, model, tmp_path, monkeypatch):
        segment = planned(tmp_path)
        harvest, gate = harvester(segment, model), Gate(monkeypatch)
        held, most, taken = [], [], workers.harvest.Taken

        def taking(batch, rows):
            held.append(rows)
            most.append(sum(bool(one) for one in held))  # the shelf empties what it has taken
            return taken(batch, rows)

        monkeypatch.setattr("workers.harvest.Taken", taking)
        threading.Timer(0.3, gate.open).start()
        for task in tasks(segment):
            harvest(task)
        assert max(most) <= BEHIND + 2


class TestErrors:
    def assert_unharmed(self, harvest, segment, unit):
        """The same harvester goes on with another unit."""
        assert harvest(UnitTask(unit=unit, sites=SITES)).rows > 0

    def test_of_reading_comes_as_itself(self, model, tmp_path):
        segment = planned(tmp_path)
        harvest = harvester(segment, model)
        (segment.folder.local / part_name(0)).write_bytes(b"no parquet")
        with pytest.raises(GarnerError, match="part-00000"):
            harvest(tasks(segment)[0])

    @pytest.mark.parametrize("error", [IndexError("in the model"), KeyboardInterrupt()])
    def test_of_the_model_comes_as_itself(self, model, tmp_path, error):
        segment = planned(tmp_path)
        harvest = harvester(segment, model)

        def fail(*_):
            raise error

        hook = harvest._lm.module.get_submodule("h.1").register_forward_pre_hook(fail)
        with pytest.raises(type(error)) as raised:
            harvest(tasks(segment)[0])
        assert raised.value is error
        hook.remove()
        self.assert_unharmed(harvest, segment, 0)

    def test_of_a_row_that_is_not_finite_names_its_document(self, model, tmp_path):
        ids = [np.full(20, 5 + n) for n in range(30)]
        segment = planned(tmp_path, ids)
        harvest = harvester(segment, model)
        harvest._lm.module.get_input_embeddings().weight[5 + 9] = float("nan")
        with pytest.raises(RunError, match="site embed, document 'doc:9': the model gave NaN"):
            harvest(UnitTask(unit=1, sites=SITES))
        self.assert_unharmed(harvest, segment, 3)

    def test_of_the_disk_comes_as_itself(self, model, tmp_path, monkeypatch):
        segment = planned(tmp_path)
        harvest = harvester(segment, model)
        with monkeypatch.context() as patch:

            def fail(path, parts):
                raise OSError(28, "No space left on device")

            patch.setattr("storage.url._create_local", fail)
            with pytest.raises(RunError, match=r"c\.\d\.0: No space left"):
                harvest(tasks(segment)[0])
        self.assert_unharmed(harvest, segment, 0)
        assert segment.units_done(SITES[0]) == {0}


class TestReceipts:
    def test_say_where_the_time_went_and_what_was_written(self, model, tmp_path):
        segment = planned(tmp_path)
        receipt = harvester(segment, model)(tasks(segment)[0])
        spent = receipt.timings
        assert min(spent.read, spent.forward, spent.copy, spent.encode, spent.write) > 0
        assert max(spent.read, spent.forward, spent.copy + spent.encode) <= receipt.busy <= receipt.seconds
        assert receipt.bytes == sum(map(len, shards(segment).values()))
        assert receipt.device == "cpu"

    def test_of_shards_that_were_there_count_no_byte_and_no_token(self, model, tmp_path):
        segment = planned(tmp_path)
        harvest, task = harvester(segment, model), tasks(segment)[0]
        first = harvest(task)
        for mark in segment.folder.local.rglob("done/*/*.json"):
            mark.unlink()
        again = harvest(task)
        assert (again.rows, again.bytes, again.forward_tokens) == (first.rows, 0, 0)
        assert again.timings.write == again.timings.forward == 0

    def test_busy_seconds_of_one_worker_never_overlap(self, model, tmp_path):
        segment = planned(tmp_path)
        harvest, began = harvester(segment, model), time.monotonic()
        with ThreadPoolExecutor(2) as threads:
            receipts = list(threads.map(harvest, tasks(segment)))
        assert sum(receipt.busy for receipt in receipts) <= time.monotonic() - began
        assert all(a.unit < b.unit for a, b in pairwise(receipts))
