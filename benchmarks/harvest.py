"""Harvesting MiniLM against a bare forward pass of the same batches; memory at one and ten times the corpus."""

import json
import multiprocessing
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.material import minilm, texts
from benchmarks.timing import Result, own_memory, side_by_side
from pipeline.plan import CacheStep
from pipeline.progress import Progress
from pipeline.recipe import Opened, opened
from pipeline.run import run, survey
from storage.lake import Lake
from storage.sequences import Sequences
from workers.batches import batches, padded
from workers.harvest import Harvester, HarvestSpec, UnitTask
from workers.model import ModelSpec, load
from workers.pool import Place

_TOKENS = 16_384
_BATCH_TOKENS = 4096
_SITES = ("embed", "resid.2", "resid.5")
_WIDTH = 384
_ROOT = Path(__file__).resolve().parent.parent
_EXAMPLES = _ROOT / "examples"
_DOCUMENTS = 100
_FIRST = """
import sys
from storage import Lake
lake = Lake(sys.argv[1])
x_BD = next(iter(lake.cache(lake.caches()[0]).site("resid.5").shuffled(4096, seed=0)))
assert len(x_BD) == 4096 and "torch" not in sys.modules
"""


def speed() -> Result:
    """Tokens per second from token parts to marks, over `AutoModel`'s forward of the same padded batches."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = _recipe(Path(folder), minilm(), texts(_TOKENS))
        run(recipe, Progress(live=False))
        (name,) = Lake(recipe.lake).caches()
        cache = Lake(recipe.lake).cache(name)
        segment, lm = cache.segments[0], load(ModelSpec(source=str(minilm())))
        harvester = Harvester(_spec(segment.folder.url), Place())
        task = UnitTask(unit=0, sites=cache.sites)
        every = Sequences(segment).touching(0, segment.plan.rows)
        chosen = list(batches(every, segment.plan.window, _BATCH_TOKENS))
        inputs = [padded(batch, torch.tensor([len(one.input_ids) for one in batch])) for batch in chosen]

        def ours() -> None:
            for name in ("sites", "done"):
                for site in cache.sites:
                    shutil.rmtree(segment.folder.local / name / str(site), ignore_errors=True)
            harvester(task)

        def bare() -> None:
            with torch.inference_mode():
                for ids_BT, mask_BT in inputs:
                    lm.module(input_ids=ids_BT, attention_mask=mask_BT)

        what = f"`AutoModel` forward of the same batches of MiniLM, nothing kept; {len(_SITES)} sites harvested"
        return side_by_side("harvest", segment.plan.rows, "tokens/s", ours, bare, what)


def memory() -> list[Result]:
    """Peak resident memory of a harvest: of ten times the corpus over that of the corpus, and over what plan said."""
    small = _EXAMPLES / "models/wide", _demo_texts()
    (ten, _), (one, _) = (_peak(*small, copies) for copies in (100, 10))
    true, bound = _peak(minilm(), texts(_TOKENS), 1)
    return [
        Result("harvest memory, corpus x10", ten, one, "MiB", "peak resident memory of the corpus x1 (demo model)", 1),
        Result("harvest memory, as planned", true, bound, "MiB", "what `garner plan` said for MiniLM", 1),
    ]


def _demo_texts() -> tuple[str, ...]:
    lines = (_EXAMPLES / "corpus/heldout-a.jsonl").read_text().splitlines()[:_DOCUMENTS]
    return tuple(json.loads(line)["text"] for line in lines)


def first_batch() -> Result:
    """Seconds from the start of a process to the first shuffled batch of a finished cache, through the public API."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = _recipe(Path(folder), minilm(), texts(_TOKENS))
        run(recipe, Progress(live=False))
        seconds = []
        for _ in range(5):
            started = time.perf_counter()
            subprocess.run([sys.executable, "-c", _FIRST, recipe.lake], check=True, cwd=_ROOT)
            seconds.append(time.perf_counter() - started)
        return Result("first batch", statistics.median(seconds), 2, "s", "the goal; imports included, torch not", 5)


def _peak(model: Path, documents: Sequence[str], copies: int) -> tuple[float, float]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_harvest_and_measure, (model, documents, copies))


def _harvest_and_measure(model: Path, documents: Sequence[str], copies: int) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as folder:
        recipe = _recipe(Path(folder), model, documents, copies, unit=2**13, sites=("embed", "resid.3"))
        (step,) = survey(recipe)[1]
        assert isinstance(step, CacheStep)
        assert step.facts.memory is not None
        run(recipe, Progress(live=False))
        return own_memory("VmHWM"), step.facts.memory.total / 2**20


def _recipe(
    folder: Path,
    model: Path,
    documents: Sequence[str],
    copies: int = 1,
    unit: int = 2**16,
    sites: Sequence[str] = _SITES,
) -> Opened:
    """The documents, repeated, harvested in this process."""
    (folder / "documents").mkdir()
    text = "\n".join(json.dumps({"text": one}) for one in documents)
    for copy in range(copies):
        (folder / f"documents/{copy:03}.jsonl").write_text(text)
    table = {
        "lake": str(folder / "lake"),
        "models": {"model": {"name": str(model)}},
        "corpora": {"documents": {"files": "documents/*.jsonl"}},
        "caches": {
            "bench": {"model": "model", "corpus": "documents", "sites": list(sites), "unit": unit, "context": 256}
        },
        "pool": {"kind": "local", "batch_tokens": _BATCH_TOKENS},
    }
    return opened(table, str(folder), "bench")


def _spec(segment: str) -> HarvestSpec:
    return HarvestSpec(
        model=ModelSpec(source=str(minilm())),
        segment=segment,
        number=0,
        widths=dict.fromkeys(_SITES, _WIDTH),
        dtype="bfloat16",
        rows="tokens",
        batch_tokens=_BATCH_TOKENS,
        nonfinite=False,
    )
