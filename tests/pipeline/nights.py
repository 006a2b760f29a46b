"""A recipe with a schedule over a tiny model, and nights of it: in this process, or as the command that timers call."""

import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

import jobs
from pipeline import ledger
from pipeline.night_work import attempt
from pipeline.nightly import Nightly
from storage import Lake
from tests.pipeline import tiny

RECIPE = """
lake = "lake"
[models.tiny]
name = "{model}"
[corpora.words]
files = "docs/*.jsonl"
[caches.tiny]
model = "tiny"
corpus = "words"
sites = ["embed", "resid.0"]
dtype = "float32"
[pool]
kind = "local"
{jobs}
[schedule]
cron = "0 2 * * *"
zone = "Europe/Zurich"
{schedule}
"""
SAE = """
[jobs.dictionary]
kind = "sae"
cache = "tiny"
site = "resid.0"
width = 16
epochs = 1
activation = { kind = "topk", k = 2 }
"""
TALLY = '''"""Counts the rows that it sees, and those that its last artifact had counted."""

import os

from jobs.core.context import Metric, Read, Report
from storage.errors import RunError
from storage.value import Value

REFITS = ("all", "newest", "continue")


class Config(Value):
    cache: str


def reads(config):
    return (Read(cache=config.cache),)


def run(config, ctx):
    if "TALLY_FAILS" in os.environ:
        raise RunError("the scripted failure")
    before = ctx.previous.record.report["metrics"][0]["value"] if ctx.previous else 0
    rows = ctx.cache(config.cache).n_rows
    metrics = (Metric(name="rows", value=before + rows), Metric(name="seen", value=rows))
    return Report(headline=f"{before} + {rows} rows", metrics=metrics)
'''


def tally(name: str, refit: str = "all") -> str:
    """A job table of the study above."""
    return f'[jobs.{name}]\nkind = "tally"\ncache = "tiny"\nrefit = "{refit}"\n'


def in_process(order, lease, deadline):
    """Works a night here, without a deadline."""
    return attempt(order)


def install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make it a kind of job, `tally`."""
    (folder / "studies").mkdir()
    (folder / "studies" / "tally.py").write_text(TALLY)
    monkeypatch.setattr(jobs, "__path__", [*jobs.__path__, str(folder / "studies")])


class Nights:
    """A folder with `docs/` and `nightly.toml`."""

    def __init__(self, folder: Path, model: Path, tables: str = "", schedule: str = "") -> None:
        self.folder, self.lake, self.said = folder, Lake(str(folder / "lake")), []
        self.recipe = folder / "nightly.toml"
        self.recipe.write_text(RECIPE.format(model=model, jobs=tables, schedule=schedule))

    def add(self, name: str, *texts: str) -> int:
        """A file of documents; its tokens."""
        tiny.write_texts(self.folder / "docs" / f"{name}.jsonl", texts)
        return sum(len(text.encode()) for text in texts)

    def night(self, now: str, *settings: str, work=in_process) -> int:
        """What the command does at that time, in this process; its exit code."""
        return Nightly(str(self.recipe), settings, datetime.fromisoformat(now), self.said.append, work).run()

    def entries(self) -> list[ledger.Entry]:
        """Every night that ended, in the order of its slots."""
        found = [ledger.entry(run, "nightly") for run in ledger.runs(self.lake.folder)]
        return sorted((one for one in found if one), key=lambda one: (one.night.slot, one.night.term))

    def tokens(self, entry: ledger.Entry) -> int:
        """That went through models that night."""
        return sum(step.tokens for step in entry.record.steps)

    def page(self, entry: ledger.Entry) -> str:
        return self.lake.folder.read(f"runs/{entry.run}/report.md").decode()

    def start(self, now: str, *settings: str, **environment: str) -> "subprocess.Popen[str]":
        """`garner nightly` as a process of its own."""
        words = [word for setting in settings for word in ("--set", setting)]
        code = "import sys; from pipeline.__main__ import main; sys.exit(main())"
        return subprocess.Popen(
            [sys.executable, "-c", code, "nightly", str(self.recipe), "--now", now, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        )
