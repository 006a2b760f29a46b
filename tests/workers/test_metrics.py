"""Metrics: what a harvester counts under Ray is shown by Ray's exporter; without Ray nothing is counted or imported."""

import subprocess
import sys
import time
import urllib.request

import pytest

from storage.site import Site
from workers import metrics
from workers.harvest import UnitReceipt
from workers.timings import Timings

RECEIPT = UnitReceipt(
    unit=0,
    rows=100,
    forward_tokens=120,
    seconds=2.5,
    busy=2.0,
    worker="host:1",
    device="cpu",
    bytes=4096,
    timings=Timings(read=0.25, forward=1.5, write=0.5),
)
SITES = (Site("resid", 0), Site("resid", 1), Site("embed"))
SEGMENT = "s3://team/lake/caches/gpt2.wiki-0123456789ab/segments/00000"
SHOWN = {
    'garner_units_total{cache="gpt2.wiki-0123456789ab",model="gpt2"}': 2,
    'garner_tokens_total{cache="gpt2.wiki-0123456789ab",model="gpt2"}': 240,
    'garner_rows_total{cache="gpt2.wiki-0123456789ab",kind="resid",model="gpt2"}': 400,
    'garner_rows_total{cache="gpt2.wiki-0123456789ab",kind="embed",model="gpt2"}': 200,
    'garner_written_bytes_total{cache="gpt2.wiki-0123456789ab",model="gpt2"}': 8192,
    'garner_step_seconds_total{cache="gpt2.wiki-0123456789ab",model="gpt2",step="forward"}': 3,
    'garner_unit_seconds_count{cache="gpt2.wiki-0123456789ab",model="gpt2"}': 2,
}


def exported():
    """What the exporter of the one node shows of garner, by name and tags of ours."""
    import ray

    (node,) = ray.nodes()
    page = urllib.request.urlopen(f"http://127.0.0.1:{node['MetricsExportPort']}/metrics", timeout=30).read().decode()
    found = {}
    for line in page.splitlines():
        if "garner_" in line and not line.startswith("#"):
            name, _, rest = line.removeprefix("ray_").partition("{")
            tags, _, value = rest.rpartition("} ")
            ours = sorted(tag for tag in tags.split(",") if tag.split("=")[0] in ("cache", "kind", "model", "step"))
            found[f"{name}{{{','.join(ours)}}}"] = float(value.split()[0])
    return found


@pytest.mark.ray
def test_rays_exporter_shows_what_workers_count(local_ray):
    import ray

    @ray.remote(num_cpus=1)
    class Actor:
        def count(self):
            metrics.count(RECEIPT, "models/gpt2", SEGMENT, SITES)

    actor, end = Actor.remote(), time.monotonic() + 120
    ray.get([actor.count.remote(), actor.count.remote()])
    while (found := exported()) | SHOWN != found:
        assert time.monotonic() < end, found
        time.sleep(1)
    ray.kill(actor)


@pytest.mark.ray
def test_a_driver_counts_nothing(local_ray):
    metrics.count(RECEIPT, "models/of-the-driver", SEGMENT, SITES)
    assert metrics._instruments.cache_info().currsize == 0


def test_without_ray_nothing_is_imported():
    code = (
        "import sys; from tests.workers.test_metrics import *; metrics.count(RECEIPT, 'm', SEGMENT, SITES); "
        "assert 'ray' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
