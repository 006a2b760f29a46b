"""Harvesting against a bare forward pass of the same batches, and memory at one and ten times the corpus."""

import json
import multiprocessing
import shutil
import tempfile
from pathlib import Path

import torch

from benchmarks.timing import Result, own_memory, side_by_side
from pipeline.progress import Progress
from pipeline.recipe import Opened, opened
from pipeline.run import run
from storage.lake import Lake
from storage.sequences import Sequences
from workers.harvest import Harvester, HarvestSpec, UnitTask, batches, padded
from workers.model import ModelSpec, load

_EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
_DOCUMENTS = 300
_SITES = ("embed", "resid.1", "resid.3")


def speed() -> Result:
    """Tokens per second from token parts to marks, over `AutoModel`'s forward of the same padded batches."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = _recipe(Path(folder), copies=1)
        run(recipe, Progress(live=False))
        cache = Lake(recipe.lake).cache("wide.documents")
        segment, lm = cache.segments[0], load(ModelSpec(source=str(_EXAMPLES / "models/wide")))
        harvester = Harvester(_spec(segment.folder.url))
        task = UnitTask(unit=0, sites=cache.sites)
        chosen = list(batches(Sequences(segment).touching(0, segment.plan.rows), segment.plan.window, 8192))
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

        what = f"`AutoModel` forward of the same batches, nothing kept; {len(_SITES)} sites harvested"
        return side_by_side("harvest", segment.plan.rows, "tokens/s", ours, bare, what)


def memory() -> Result:
    """Peak resident memory of a harvest of ten times the corpus over that of the corpus, each in its own process."""
    ten, one = (_peak(copies) for copies in (10, 1))
    return Result("harvest memory, corpus x10", ten, one, "MiB", "peak resident memory of the corpus x1", 1)


def _peak(copies: int) -> float:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_harvest_and_measure, (copies,))


def _harvest_and_measure(copies: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        run(_recipe(Path(folder), copies, unit=2**13), Progress(live=False))
    return own_memory("VmHWM")


def _recipe(folder: Path, copies: int, unit: int = 2**16) -> Opened:
    """The demo's corpus, cut short and repeated, harvested in this process."""
    lines = (_EXAMPLES / "corpus/heldout-a.jsonl").read_text().splitlines()[:_DOCUMENTS]
    (folder / "documents").mkdir()
    for copy in range(copies):
        rows = [{"text": json.loads(line)["text"]} for line in lines]
        text = "\n".join(json.dumps(row) for row in rows)
        (folder / f"documents/{copy:03}.jsonl").write_text(text)
    table = {
        "lake": str(folder / "lake"),
        "models": {"wide": {"name": str(_EXAMPLES / "models/wide")}},
        "corpora": {"documents": {"files": "documents/*.jsonl"}},
        "caches": {"bench": {"model": "wide", "corpus": "documents", "sites": list(_SITES), "unit": unit}},
        "pool": {"kind": "local"},
    }
    return opened(table, str(folder), "bench")


def _spec(segment: str) -> HarvestSpec:
    width = json.loads((_EXAMPLES / "models/wide/config.json").read_text())["hidden_size"]
    return HarvestSpec(
        model=ModelSpec(source=str(_EXAMPLES / "models/wide")),
        segment=segment,
        number=0,
        widths=dict.fromkeys(_SITES, width),
        dtype="bfloat16",
        rows="tokens",
        batch_tokens=8192,
        nonfinite=False,
    )
