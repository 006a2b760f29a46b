"""A folder with a tiny model, a tiny corpus and a recipe of them, and the command run there."""

import shutil
from pathlib import Path

from pipeline.__main__ import main
from tests.pipeline.tiny import write_lines

HARVEST = """
lake = "lake"
[models.tiny]
name = "model"
[corpora.words]
files = "corpus/*.jsonl"
labels = ["long"]
[caches.tiny]
model = "tiny"
corpus = "words"
sites = ["embed", "resid.0"]
dtype = "float32"
context = 16
[pool]
kind = "local"
"""
RECIPE = f"""{HARVEST}
[jobs.dictionary]
kind = "sae"
cache = "tiny"
site = "resid.0"
width = 16
epochs = 1
activation = {{ kind = "topk", k = 2 }}
"""
DOCUMENTS = (
    "the cat sat on the mat",
    "a dog ran far away",
    "",
    "x",
    *(f"{animal} {n} sat" for n in range(25) for animal in ("cat", "dog")),
)
"""As many as a split by document needs."""


class World:
    """A folder with `model/`, `corpus/a.jsonl` and `recipe.toml`."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder, self.lake = folder, folder / "lake"
        self.recipe = folder / "recipe.toml"
        shutil.copytree(model, folder / "model")
        write_lines(folder / "corpus" / "a.jsonl", [{"text": text, "long": len(text) > 9} for text in DOCUMENTS])
        self.recipe.write_text(RECIPE)

    def run(self, *settings: str, command: str = "run") -> int:
        """`garner <command> recipe.toml --set ...`; its exit code."""
        return main([command, str(self.recipe), *(word for setting in settings for word in ("--set", setting))])
