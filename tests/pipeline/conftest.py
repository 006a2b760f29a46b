"""Models that are made once, shards and units of a few rows, and lakes in memory."""

import itertools
from pathlib import Path

import pytest
import torch

from tests.pipeline import tiny

_numbers = itertools.count()


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Threads that wait for each other make tiny models a hundred times slower on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2's folder."""
    return tiny.save_decoder(tmp_path_factory.mktemp("models") / "decoder")


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT's folder."""
    return tiny.save_encoder(tmp_path_factory.mktemp("models") / "encoder")


@pytest.fixture(scope="session")
def vision(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ViT's folder."""
    return tiny.save_vision(tmp_path_factory.mktemp("models") / "vision")


@pytest.fixture
def short_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of 16 float32 rows and units of 64, so that one sequence straddles several of both."""
    row = tiny.WIDTH * 4
    monkeypatch.setattr("storage.layout.CHUNK_BYTES", 4 * row)
    monkeypatch.setattr("storage.layout.SHARD_BYTES", 16 * row)
    monkeypatch.setattr("storage.layout.UNIT_SEQUENCES", 1)


@pytest.fixture
def in_memory() -> str:
    """The URL of a new lake in memory."""
    return f"memory://harvested-{next(_numbers)}"


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """A folder with `tiny.TEXTS` as its one file of documents."""
    tiny.write_texts(tmp_path / "docs" / "a.jsonl", tiny.TEXTS)
    return tmp_path
