"""The pairs of models of examples/topics.py, trained once for all tests, and their caches.

Trained models stay in pytest's cache folder until the code that makes them changes; harvests are made in each session.
"""

import hashlib
import inspect
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from filelock import FileLock

from examples import topics
from pipeline.progress import Progress
from pipeline.run import run
from storage import Cache, Lake
from tests.pipeline.tiny import read
from workers.live import Live
from workers.live import load as load_live

N_TEXTS = 1500
LAYERS = {name: size.layers for name, size in topics.SIZES.items()}


@dataclass(frozen=True)
class Pair:
    """Two models, `narrow` and `wide`, and what they make of their vocabulary and of texts with a `topic`."""

    models: Path
    base: Path

    @cached_property
    def lake(self) -> Lake:
        """The caches of both models."""
        topics.write(self.base / "docs" / "texts.jsonl", topics.texts(0, N_TEXTS))
        opened = read(self._recipe(), self.base)
        run(opened, Progress(live=False))
        return Lake(opened.lake)

    @cached_property
    def narrow_vocabulary(self) -> Cache:
        """`embed` and `unembed`, a row per token id."""
        return self._cache("narrow", "vocabulary")

    @cached_property
    def wide_vocabulary(self) -> Cache:
        """`embed` and `unembed`, a row per token id."""
        return self._cache("wide", "vocabulary")

    @cached_property
    def narrow_texts(self) -> Cache:
        """`embed`, `resid.*` and `unembed` of labelled texts."""
        return self._cache("narrow", "texts")

    @cached_property
    def wide_texts(self) -> Cache:
        """`embed`, `resid.*` and `unembed` of labelled texts."""
        return self._cache("wide", "texts")

    def model(self, name: str) -> Live:
        """The live model that made the caches of that name."""
        made = self.narrow_texts if name == "narrow" else self.wide_texts
        return load_live(str(self.models / name), made.record.identity.model, "cpu")

    def _cache(self, model: str, corpus: str) -> Cache:
        found = [self.lake.cache(name) for name in self.lake.caches()]
        (one,) = [
            c for c in found if c.record.identity.model.name == model and _is_vocabulary(c) == (corpus != "texts")
        ]
        return one

    def _recipe(self) -> dict[str, Any]:
        caches = {}
        for name, layers in LAYERS.items():
            sites = ["embed", *(f"resid.{n}" for n in range(layers)), "unembed"]
            caches[f"{name}_texts"] = {"model": name, "corpus": "texts", "sites": sites, "dtype": "float32"}
            tables = {"corpus": "vocabulary", "sites": ["embed", "unembed"], "dtype": "float32"}
            caches[f"{name}_vocabulary"] = {"model": name} | tables
        return {
            "lake": "lake",
            "models": {name: {"name": str(self.models / name)} for name in LAYERS},
            "corpora": {
                "texts": {"files": str(self.base / "docs" / "*.jsonl"), "id": "id", "labels": ["topic"]},
                "vocabulary": {"vocabulary": True},
            },
            "caches": caches,
            "pool": {"kind": "local"},
        }


@dataclass(frozen=True)
class Pairs:
    """The pair whose input and output tables are one, and the one with tables of their own."""

    trained: Path
    base: Path

    @cached_property
    def tied(self) -> Pair:
        """1500 steps."""
        return self._pair("tied")

    @cached_property
    def untied(self) -> Pair:
        """1100 steps."""
        return self._pair("untied")

    def _pair(self, name: str) -> Pair:
        with FileLock(self.trained / f"{name}.lock"):
            topics.train_pair(self.trained / name, name)
        return Pair(self.trained / name, self.base / name)


@pytest.fixture(scope="session")
def pairs(request, tmp_path_factory) -> Pairs:
    """The trained pairs; each is made when it is first asked for."""
    made_by = f"{inspect.getsource(topics)} {torch.__version__} {transformers.__version__}"
    digest = hashlib.sha256(made_by.encode()).hexdigest()[:12]
    return Pairs(request.config.cache.mkdir(f"pairs-{digest}"), tmp_path_factory.mktemp("pairs"))


def _is_vocabulary(cache: Cache) -> bool:
    return bool(cache.record.identity.corpus.get("vocabulary"))
