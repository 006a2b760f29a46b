"""What `garner plan` says a harvest holds in memory is a bound, and follows the recipe."""

import subprocess
import sys

import pytest

from pipeline.run import survey
from tests.pipeline import tiny

CODE = """
import sys
from pathlib import Path
from pipeline.__main__ import main
assert main(["run", sys.argv[1]]) == 0
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(int(peak.split()[1]) * 1024)
"""


def planned(table, base):
    (step,) = survey(tiny.read(table, base))[1]
    return step.facts.memory


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_harvest_stays_within_what_plan_said(decoder, tmp_path):
    tiny.write_texts(tmp_path / "docs" / "a.jsonl", [f"document {n} of some words " * 8 for n in range(400)])
    table = tiny.table(decoder, tmp_path)
    bound = planned(table, tmp_path).total
    path = tiny.write_recipe(table, tmp_path)
    ran = subprocess.run([sys.executable, "-c", CODE, path], capture_output=True, text=True, check=True)
    peak = int(ran.stdout.split()[-1])
    assert bound / 3 < peak < bound


def test_the_bound_follows_shards_batches_and_files(decoder, tmp_path):
    tiny.write_texts(tmp_path / "docs" / "a.jsonl", ["some words"] * 50)
    table = tiny.table(decoder, tmp_path)
    plain = planned(table, tmp_path)
    small = planned(table | {"caches": {"texts": table["caches"]["texts"] | {"shard": 1}}}, tmp_path)
    narrow = planned(table | {"pool": {"kind": "local", "batch_tokens": 64}}, tmp_path)
    assert small.shards < plain.shards / 2
    assert narrow.forward == plain.forward * 64 // 8192
    assert narrow.batches == plain.batches * 64 // 8192
    fewer = planned(table | {"caches": {"texts": table["caches"]["texts"] | {"sites": ["resid.0"]}}}, tmp_path)
    assert fewer.batches < plain.batches / 2
    tiny.write_texts(tmp_path / "docs" / "b.jsonl", ["some words"] * 5000)
    assert planned(table, tmp_path).tokens > 20 * plain.tokens
