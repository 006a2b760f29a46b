"""What harvesters did, for Prometheus: counted through Ray's own exporter, and only inside Ray's workers."""

import functools
import logging
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import msgspec

from storage.site import Site

if TYPE_CHECKING:
    from workers.harvest import UnitReceipt

log = logging.getLogger(__name__)

_COMMON = ("model", "cache")
_COUNTERS = {
    "garner_units": ("Units that were harvested and marked.", ()),
    "garner_tokens": ("Tokens that models ran over, padding not counted.", ()),
    "garner_rows": ("Rows that were marked, one for every site.", ("kind",)),
    "garner_written_bytes": ("Bytes of the shards that were written.", ()),
    "garner_busy_seconds": ("Seconds in which a worker's model was a unit's.", ()),
    "garner_step_seconds": ("Seconds of work by step; steps overlap.", ("step",)),
}
"""Name, what it counts, and its tags beside the model and the cache."""
_UNIT_SECONDS = [0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0]
"""Edges of the histogram of seconds a unit took."""


def count(receipt: "UnitReceipt", model: str, segment: str, sites: Sequence[Site]) -> None:
    """Add what one unit came to; does nothing outside a worker of Ray.

    A unit never fails for its metrics: where Ray cannot take them, the log says so.
    """
    if not _in_ray_worker():
        return
    import ray.exceptions

    tags = {"model": PurePosixPath(model).name, "cache": PurePosixPath(segment).parts[-3]}
    try:
        _add(receipt, tags, Counter(site.kind for site in sites))
    except (ray.exceptions.RayError, RuntimeError, OSError) as error:
        log.warning("metrics of unit %d were not taken: %s", receipt.unit, error)


def _add(receipt: "UnitReceipt", tags: Mapping[str, str], kinds: Mapping[str, int]) -> None:
    counters, histogram = _instruments()
    found: list[tuple[str, float, dict[str, str]]] = [
        ("garner_units", 1, {}),
        ("garner_tokens", receipt.forward_tokens, {}),
        ("garner_written_bytes", receipt.bytes, {}),
        ("garner_busy_seconds", receipt.busy, {}),
        *(("garner_rows", receipt.rows * sites, {"kind": kind}) for kind, sites in kinds.items()),
        *(
            ("garner_step_seconds", seconds, {"step": step})
            for step, seconds in msgspec.structs.asdict(receipt.timings).items()
        ),
    ]
    for name, value, own in found:
        if value:  # Ray's counters refuse 0
            counters[name].inc(value, {**tags, **own})
    histogram.observe(receipt.seconds, dict(tags))


@functools.cache
def _instruments() -> tuple[dict[str, Any], Any]:
    """Ray's counters by name, and the histogram; one of each in a process."""
    from ray.util.metrics import Counter as RayCounter
    from ray.util.metrics import Histogram

    counters = {name: RayCounter(name, what, (*_COMMON, *own)) for name, (what, own) in _COUNTERS.items()}
    histogram = Histogram("garner_unit_seconds", "Seconds from a unit's call to its marks.", _UNIT_SECONDS, _COMMON)
    return counters, histogram


def _in_ray_worker() -> bool:
    """Whether a worker process of Ray runs this; Ray is not imported to find out."""
    ray: Any = sys.modules.get("ray")
    return bool(ray and ray.is_initialized() and ray.get_runtime_context().worker.mode == ray.WORKER_MODE)
