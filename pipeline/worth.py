"""What harvesting, keeping and reading a cache costs, and whether to store it or to run the model again each time.

The formulas are in docs/catalogue.md.
"""

import math
from collections.abc import Mapping, Sequence

from pipeline.estimate import Estimate, Speed, estimate, gpus_a_worker, harvests, measured
from pipeline.lineage import records
from pipeline.plan import CacheStep, JobStep, Step
from pipeline.prices import PriceTable
from pipeline.recipe import Opened
from storage.artifact import Record
from storage.lake import Lake
from storage.runs import StepRun
from storage.value import Value

_FETCHED = 4 * 2**20
"""Bytes that one ranged read of a remote shard asks for at most."""
_GB = 10**9


class Worth(Value):
    """What a cache costs, in the currency of the prices, if it is stored and if it is not."""

    harvest: float
    """Running the model over what is left."""
    keep: float
    """Storage for as long as it will be kept, and the PUTs of what is left."""
    reads: float
    """All consumers reading their sites once."""
    recompute: float
    """Running the model over the whole corpus once, which each consumer would do."""
    consumers: int
    pays_from: int | None
    """Consumers from which on storing is no dearer; None where reading costs as much as running the model again."""

    @property
    def stored(self) -> float:
        """Harvest what is left, keep all, and let every consumer read."""
        return self.harvest + self.keep + self.reads

    @property
    def recomputed(self) -> float:
        """Let every consumer run the model."""
        return self.recompute * self.consumers


def hourly(prices: PriceTable, gpus: float) -> float:
    """Of one worker that holds so many GPUs; 0 of them is a CPU worker."""
    return prices.gpu_hour * gpus if gpus else prices.cpu_hour


def spent(opened: Opened, done: Sequence[StepRun]) -> dict[str, float]:
    """What a run cost by the recipe's prices: its workers' time, and keeping what it wrote; empty without prices."""
    prices, gpus = opened.recipe.prices, gpus_a_worker(opened.recipe.pool)
    if prices is None:
        return {}
    rates = [(step, hourly(prices, 0 if step.kind == "cache" and step.device == "cpu" else gpus)) for step in done]
    return {
        "workers": sum(rate * step.seconds * (step.workers or 1) / 3600 for step, rate in rates),
        "storage": sum(step.bytes for step in done) / _GB * prices.storage_gb_month * prices.months,
    }


def read_cost(prices: PriceTable, size: int) -> float:
    """Of reading so many bytes once."""
    return math.ceil(size / _FETCHED) / 1000 * prices.get_per_1000 + size / _GB * prices.egress_gb


def keep_cost(prices: PriceTable, size: Estimate) -> float:
    """Of keeping the whole cache, and of creating the objects that it lacks."""
    stored = size.bytes / _GB * prices.storage_gb_month * prices.months
    return stored + size.objects_left / 1000 * prices.put_per_1000


def worth(size: Estimate, speed: Speed, prices: PriceTable, gpus: float, reads: Sequence[int]) -> Worth:
    """The costs of a cache; `reads` are the bytes that each of its consumers reads."""
    rate = hourly(prices, gpus)
    harvest, recompute = speed.hours(size.tokens_left) * rate, speed.hours(size.tokens) * rate
    keep = keep_cost(prices, size)
    costs = [read_cost(prices, one) for one in reads or (size.bytes,)]
    saved = recompute - sum(costs) / len(costs)
    # rounded, so that an exact break-even is not lifted to the next consumer by the last bit
    pays_from = max(1, math.ceil(round((harvest + keep) / saved, 9))) if saved > 0 else None
    return Worth(
        harvest=harvest,
        keep=keep,
        reads=sum(costs) if reads else 0.0,
        recompute=recompute,
        consumers=len(reads),
        pays_from=pays_from,
    )


def consumers(steps: Sequence[Step], folder: str, size: Estimate, there: Mapping[str, Record]) -> tuple[int, ...]:
    """Bytes that each consumer of a cache reads: jobs of the recipe, and artifacts that the lake has besides."""
    jobs = {step.artifact: step.inputs.values() for step in steps if isinstance(step, JobStep)}
    inputs = {name: record.inputs.values() for name, record in there.items()} | jobs
    return tuple(
        sum(size.sites.get(site, 0) for site in one.sites)
        for some in inputs.values()
        for one in some
        if one.cache == folder
    )


def lines(opened: Opened, steps: Sequence[Step], prices: PriceTable | None) -> dict[str, list[str]]:
    """For every cache of the plan what it takes and what it costs, in words."""
    lake, gpus = Lake(opened.lake), gpus_a_worker(opened.recipe.pool)
    there, done = (records(lake) if prices else {}), harvests(lake)
    found = {}
    for step in steps:
        if isinstance(step, CacheStep) and not (step.done and prices is None):
            size = estimate(step, opened.recipe.caches[step.name])
            speed = measured(lake, done, step.facts.record, gpus > 0) or _given(prices)
            found[step.name] = [] if step.done else [_left(size, speed, gpus)]
            if prices:
                reads = consumers(steps, step.facts.folder, size, there)
                found[step.name] += _priced(size, speed, prices, gpus, reads)
    return found


def _given(prices: PriceTable | None) -> Speed | None:
    """The recipe's word for a speed that was never measured."""
    if prices is None or prices.tokens_per_second is None:
        return None
    return Speed(tokens_per_second=prices.tokens_per_second, source="by the recipe's prices")


def _left(size: Estimate, speed: Speed | None, gpus: float) -> str:
    """Bytes, objects and hours that a step will take."""
    about = "about " if size.rough else ""
    most = "at most " if size.bound else ""
    written = f"writes {about}{most}{size.bytes_left / 2**20:,.1f} MiB in {about}{size.objects_left:,} objects"
    if speed is None:
        return f"{written}; time unknown: nothing of this model was harvested here yet"
    least = "at least " if size.selected else about
    hours = f"{speed.hours(size.tokens_left) * (gpus or 1):,.3g} {'GPU' if gpus else 'CPU'}-hours"
    return f"{written}; {least}{hours} at {speed.tokens_per_second:,.0f} tokens/s a worker ({speed.source})"


def _priced(
    size: Estimate, speed: Speed | None, prices: PriceTable, gpus: float, reads: Sequence[int]
) -> tuple[str, ...]:
    """What it costs, and the advice, where speed and prices tell enough for one."""
    months = f"to write and keep for {prices.months:g} month{'' if prices.months == 1 else 's'}"
    if speed is None or not hourly(prices, gpus):
        return (f"costs {amount(prices, keep_cost(prices, size))} {months}",)
    cost = worth(size, speed, prices, gpus, reads)
    costs = f"costs {amount(prices, cost.harvest)} to harvest, {amount(prices, cost.keep)} {months}"
    return costs, _advice(cost, prices)


def _advice(cost: Worth, prices: PriceTable) -> str:
    """To store or to recompute."""
    if cost.pays_from is None:
        return "recompute: reading it costs as much as running the model again"
    pays = f"storing pays from {cost.pays_from} on"
    if not cost.consumers:
        return f"nobody reads it yet; {pays}"
    better = "store" if cost.stored <= cost.recomputed else "recompute"
    compared = f"storing {amount(prices, cost.stored)}, recomputing {amount(prices, cost.recomputed)}"
    return f"{better}: for {cost.consumers} consumer{'' if cost.consumers == 1 else 's'} {compared}; {pays}"


def amount(prices: PriceTable, money: float) -> str:
    """An amount of money, with more digits where it is small."""
    return f"{prices.currency}{money:,.2f}" if money >= 0.1 or not money else f"{prices.currency}{money:.2g}"
