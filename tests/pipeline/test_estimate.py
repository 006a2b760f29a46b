"""What `garner plan` says a run will take and cost, against what runs took and what was computed by hand."""

import msgspec
import pytest

from pipeline import estimate as estimates
from pipeline.estimate import Estimate, Speed, check_disk, estimate, gpus_a_worker, harvests, measured
from pipeline.prices import PriceTable
from pipeline.recipe import Group, PoolTable
from pipeline.run import survey
from pipeline.worth import amount, consumers, lines, read_cost, worth
from storage import InputError, Lake
from storage.artifact import Input, Record
from storage.runs import RunRecord, Start, StepRun, begin, end
from storage.value import convert
from tests.pipeline import tiny


def planned(recipe, base):
    """The recipe opened, its steps, and the estimate of its one cache."""
    opened = tiny.read(recipe, base)
    steps = survey(opened)[1]
    return opened, steps, estimate(steps[0], opened.recipe.caches["texts"])


def objects(base):
    """Every object of the cache in `base`/lake with its bytes."""
    (cache,) = (base / "lake/caches").iterdir()
    found = {path.relative_to(cache).as_posix(): path.stat().st_size for path in cache.rglob("*") if path.is_file()}
    return {name: size for name, size in found.items() if not name.rpartition("/")[2].startswith((".", "probe-"))}


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "int8"])
def test_bytes_and_objects_of_indexed_tokens_are_exact(decoder, texts, short_shards, dtype):
    recipe = tiny.table(decoder, texts, unit=128, sites=["embed", "resid.0"], dtype=dtype)
    tiny.harvest(recipe, texts)
    for name in ("sealed", "done", "sites"):
        for path in sorted((texts / "lake").rglob(f"segments/00000/{name}/**/*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
    _, _, said = planned(recipe, texts)
    tiny.harvest(recipe, texts)
    there = objects(texts)
    shards = {name: size for name, size in there.items() if "/c." in name}
    assert len(shards) > 20
    assert said.bytes_left == said.bytes_known == said.bytes == sum(shards.values())
    assert said.sites["embed"] == sum(size for name, size in shards.items() if "/embed/" in name)
    # cache.json, files.json, plan.json, sites/zarr.json and the token part were there
    assert said.objects_left == len(there) - 5
    assert said.tokens_left == said.tokens == tiny.only_cache(str(texts / "lake")).n_rows
    assert (said.rough, said.bound, said.selected) == (False, False, False)


def test_what_is_done_is_not_left(decoder, texts, short_shards):
    recipe = tiny.table(decoder, texts, unit=128, sites=["embed"])
    tiny.harvest(recipe, texts)
    _, _, done = planned(recipe, texts)
    assert (done.bytes_left, done.objects_left, done.tokens_left) == (0, 0, 0)
    before = set(objects(texts))
    more = recipe | {"caches": {"texts": recipe["caches"]["texts"] | {"sites": ["embed", "resid.0"]}}}
    _, _, said = planned(more, texts)
    tiny.harvest(more, texts)
    new = set(objects(texts)) - before
    assert said.bytes_left == said.sites["resid.0"] == sum(objects(texts)[name] for name in new if "/c." in name)
    assert said.objects_left == len(new)
    assert said.tokens_left == said.tokens


def test_half_done_sites_and_new_files_are_rough_and_compressed_ones_a_bound(decoder, texts, short_shards):
    recipe = tiny.table(decoder, texts, unit=128, sites=["embed"], compress="zstd")
    _, _, new = planned(recipe, texts)
    assert new.rough
    assert new.bound
    assert new.bytes_known == 0 < new.bytes_left
    tiny.harvest(recipe, texts)
    (seal,) = (texts / "lake").rglob("sealed/embed.json")
    (mark, *_) = sorted((texts / "lake").rglob("done/embed/*.json"))
    seal.unlink()
    mark.unlink()
    _, _, half = planned(recipe, texts)
    assert half.rough
    assert 0 < half.bytes_left < half.bytes


def test_a_selection_says_that_the_model_reads_more(decoder, texts):
    every = {"kind": "packed", "select": {"kind": "every", "n": 2}}
    assert planned(tiny.table(decoder, texts, tokenise=every), texts)[2].selected


# --- speed


def speed_of(lake, record, on_gpu):
    return measured(lake, harvests(lake), record, on_gpu)


def step_run(folder, **changes):
    harvested = {"kind": "cache", "tokens": 1000, "seconds": 10.0, "workers": 2}
    return StepRun(name="texts", folder=folder, **(harvested | changes))


def add_run(lake, number, *steps):
    start = Start(id=f"2026-01-{number:02d}-x", recipe="r", digest="d", owner="a@b", time="", versions={})
    end(begin(lake.folder, start), RunRecord(start=start, status="done", seconds=1.0, steps=steps))


@pytest.fixture
def ran(decoder, texts):
    """A lake with a cache and no runs, and that cache."""
    cache, _ = tiny.harvest(tiny.table(decoder, texts, sites=["embed"]), texts)
    lake = Lake(str(texts / "lake"))
    lake.folder.remove("runs")
    return lake, cache


def test_a_run_measures_the_speed_of_its_model(decoder, texts):
    recipe = tiny.table(decoder, texts, sites=["embed"])
    cache, _ = tiny.harvest(recipe, texts)
    lake = Lake(str(texts / "lake"))
    speed = speed_of(lake, cache.record, on_gpu=False)
    assert speed is not None
    assert speed.tokens_per_second > 1
    assert speed_of(lake, cache.record, on_gpu=True) is None
    opened, steps, _ = planned(recipe | {"caches": {"texts": recipe["caches"]["texts"] | {"dtype": "int8"}}}, texts)
    (line,) = lines(opened, steps, None)["texts"]
    assert "CPU-hours at" in line
    assert "measured in 1 earlier harvest)" in line


def test_speed_is_one_workers_share_of_the_newest_harvests(ran):
    lake, cache = ran
    assert speed_of(lake, cache.record, on_gpu=False) is None
    add_run(lake, 1, step_run(cache.id, tokens=10**9))
    for number in range(2, 7):
        add_run(lake, number, step_run(cache.id, tokens=1000 * number))
    speed = speed_of(lake, cache.record, on_gpu=False)
    assert speed.tokens_per_second == (2000 + 3000 + 4000 + 5000 + 6000) / (5 * 10.0 * 2)


def test_other_models_other_devices_jobs_and_damaged_records_tell_no_speed(ran, caplog):
    lake, cache = ran
    other = msgspec.structs.replace(cache.record, id="0" * 12)
    model = msgspec.structs.replace(cache.record.identity.model, weights="f" * 64)
    third = msgspec.structs.replace(other, identity=msgspec.structs.replace(cache.record.identity, model=model))
    add_run(lake, 1, step_run(cache.id), step_run(cache.id, device="NVIDIA L4", tokens=10**6))
    add_run(lake, 2, step_run(cache.id, kind="sae", tokens=10**6), step_run("gone-0123", tokens=10**6))
    lake.folder.create("runs/2026-01-03-x/record.json", b"not a record")
    assert speed_of(lake, other, on_gpu=False).tokens_per_second == 50  # the same model in another cache
    assert speed_of(lake, third, on_gpu=False) is None
    assert speed_of(lake, cache.record, on_gpu=True).tokens_per_second == 50_000
    assert "tells no speed" in caplog.text


def test_gpus_of_a_worker_are_the_pools_or_the_mean_of_its_groups():
    assert gpus_a_worker(PoolTable(gpus=0.5)) == 0.5
    assert gpus_a_worker(PoolTable(groups=(Group(gpus=4, workers=1), Group(gpus=1, workers=3)))) == 7 / 4


# --- costs


def size(**changes):
    """1,000 GB in two sites, 360 million tokens, nothing there yet."""
    whole = {"sites": {"embed": 4 * 10**11, "resid.6": 6 * 10**11}, "tokens": 36 * 10**7}
    left = {"bytes_left": 10**12, "bytes_known": 10**12, "objects_left": 10**6, "tokens_left": 36 * 10**7}
    return Estimate(**(whole | left | {"rough": False, "bound": False, "selected": False} | changes))


SPEED = Speed(tokens_per_second=10_000, source="by hand")  # 10 hours
PRICES = PriceTable(gpu_hour=2, storage_gb_month=0.01, months=2, egress_gb=0.005)
WHOLE = 10**12


@pytest.mark.parametrize(
    ("n", "stored", "recomputed"), [(0, 40, 0), (1, 45, 20), (2, 50, 40), (3, 55, 60), (10, 90, 200)]
)
def test_the_worth_of_a_cache_is_that_of_the_documentations_example(n, stored, recomputed):
    cost = worth(size(), SPEED, PRICES, gpus=1, reads=[WHOLE] * n)
    assert (cost.harvest, cost.recompute, cost.keep) == pytest.approx((20, 20, 20))
    assert (cost.stored, cost.recomputed) == pytest.approx((stored, recomputed))
    assert cost.pays_from == 3


def test_a_cache_that_is_there_costs_only_its_keeping():
    cost = worth(size(tokens_left=0, bytes_left=0, objects_left=0), SPEED, PRICES, 1, [WHOLE])
    assert (cost.harvest, cost.keep, cost.stored, cost.recomputed) == pytest.approx((0, 20, 25, 20))
    assert cost.pays_from == 2


def test_requests_gpus_and_cpus_have_their_prices():
    prices = PriceTable(cpu_hour=0.5, gpu_hour=2, put_per_1000=0.005, get_per_1000=0.0004)
    assert worth(size(), SPEED, prices, 0, []).harvest == pytest.approx(5)
    assert worth(size(), SPEED, prices, 4, []).harvest == pytest.approx(80)
    assert worth(size(), SPEED, prices, 0, []).keep == pytest.approx(5)  # a million PUTs
    assert read_cost(prices, 4 * 2**20 * 2500) == pytest.approx(0.001)
    assert read_cost(prices, 1) == pytest.approx(0.0004 / 1000)


def test_an_exact_break_even_pays_and_one_that_reading_outweighs_never_does():
    exact = PriceTable(gpu_hour=2, storage_gb_month=0.01, months=2)
    assert worth(size(), SPEED, exact, 1, [0]).pays_from == 2  # (20 + 20) / 20
    dear = PriceTable(gpu_hour=2, egress_gb=0.02)
    assert worth(size(), SPEED, dear, 1, [WHOLE]).pays_from is None


def test_break_even_is_the_smallest_number_of_consumers_for_which_storing_is_no_dearer():
    for months in (0, 1, 3, 17):
        for egress in (0, 0.003, 0.0199):
            prices = PriceTable(gpu_hour=2, storage_gb_month=0.013, months=months, egress_gb=egress)
            from_ = worth(size(), SPEED, prices, 1, [WHOLE]).pays_from
            for n in range(1, 4000):
                one = worth(size(), SPEED, prices, 1, [WHOLE] * n)
                if one.stored <= one.recomputed * (1 + 1e-9):
                    break
            assert from_ == n


def test_amounts_keep_digits_where_they_are_small():
    said = [amount(PriceTable(currency="€"), money) for money in (0, 1234.5, 0.1, 0.0123)]
    assert said == ["€0.00", "€1,234.50", "€0.10", "€0.012"]


@pytest.mark.parametrize(
    ("table", "where"),
    [
        ({"gpu_hour": -1}, "prices.gpu_hour"),
        ({"egress_gb": float("nan")}, "prices.egress_gb"),
        ({"months": float("inf")}, "months"),
        ({"tokens_per_second": 0}, "prices.tokens_per_second"),
        ({"cpu_hour": "1"}, "prices.cpu_hour"),
        ({"gpu_hours": 1}, "did you mean gpu_hour"),
    ],
)
def test_a_wrong_price_is_refused_by_its_field(table, where):
    with pytest.raises(InputError, match=where):
        convert(table, PriceTable, "prices")


# --- in the plan


@pytest.fixture
def studied(decoder, texts):
    """A recipe of one cache and two jobs that read a site each."""
    recipe = tiny.table(decoder, texts, sites=["embed", "resid.0"])
    job = {"kind": "geometry", "cache": "texts", "site": "embed"}
    return recipe | {"jobs": {"shape": job, "other": job | {"site": "resid.0"}}}


def test_consumers_are_the_recipes_jobs_and_the_lakes_artifacts_each_once(studied, texts):
    _, steps, said = planned(studied, texts)
    cache, *jobs = steps
    done = [record(step, tuple(step.inputs.values())) for step in jobs[:1]]
    earlier = record(jobs[0], (Input(cache=cache.facts.folder, segments=1, sites=("embed", "resid.0")),))
    there = {jobs[0].artifact: done[0], "sae-000000000001": earlier}
    both, each = said.bytes, sorted([said.sites["embed"], said.sites["resid.0"]])
    assert sorted(consumers(steps, cache.facts.folder, said, there)) == [*each, both]
    assert consumers([cache], cache.facts.folder, said, {"sae-000000000001": earlier}) == (both,)
    assert consumers(steps, "another", said, there) == ()


def record(step, inputs):
    """What an artifact of a job says."""
    return Record(
        kind=step.kind, id="", config={}, inputs={one.cache: one for one in inputs}, report={}, files=(), versions={},
        seconds=1.0,
    )  # fmt: skip


def test_a_plan_says_bytes_time_costs_and_advice(studied, texts):
    opened, steps, _ = planned(studied, texts)
    (first,) = lines(opened, steps, None)["texts"]
    assert first.endswith("time unknown: nothing of this model was harvested here yet")
    prices = PriceTable(cpu_hour=36, tokens_per_second=1)
    taken, costs, advice = lines(opened, steps, prices)["texts"]
    assert "CPU-hours at 1 tokens/s a worker (by the recipe's prices)" in taken
    tokens = steps[0].estimate
    assert costs.startswith(f"costs ${tokens * 0.01:,.2f} to harvest, $0.00 to write and keep for 1 month")
    assert advice.startswith(f"store: for 2 consumers storing ${tokens * 0.01:,.2f}, recomputing ${tokens * 0.02:,.2f}")
    assert advice.endswith("storing pays from 1 on")
    (_, costs) = lines(opened, steps, PriceTable(storage_gb_month=1))["texts"]
    assert "to write and keep" in costs


def test_a_disk_without_room_is_refused_where_bytes_are_certain_and_warned_of_where_not(
    decoder, texts, monkeypatch, caplog
):
    recipe = tiny.table(decoder, texts, sites=["embed"])
    opened, steps, _ = planned(recipe, texts)
    monkeypatch.setattr(estimates, "free_bytes", lambda lake: 10)
    check_disk(opened, steps)
    assert "it may stop half way" in caplog.text
    tiny.harvest(recipe, texts)
    more = recipe | {"caches": {"texts": recipe["caches"]["texts"] | {"sites": ["embed", "resid.0"]}}}
    opened, steps, _ = planned(more, texts)
    with pytest.raises(InputError, match="free some"):
        check_disk(opened, steps)
    monkeypatch.undo()
    check_disk(opened, steps)


def test_the_room_of_a_lake_that_is_not_there_yet_is_its_disks(tmp_path):
    from storage.url import Folder

    assert estimates.free_bytes(Folder.at(str(tmp_path / "not" / "there"))) > 0
    assert estimates.free_bytes(Folder.at("memory://nowhere")) is None
