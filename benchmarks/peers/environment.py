"""An environment for every system, kept between runs; nothing in it may bring its own accelerator libraries."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_TORCH = "torch==2.13.0"


@dataclass(frozen=True)
class Environment:
    """What is installed for one system."""

    name: str
    """Of its script in this folder."""
    title: str
    """Of its line in the table."""
    requirements: tuple[str, ...]
    removed: tuple[str, ...] = ()
    """Installed as a dependency, taken away again."""


SAELENS = Environment("saelens", "SAELens 6.54.12", (_TORCH, "sae-lens==6.54.12", "transformers==5.23.0"))
LLAMASCOPIUM = Environment(
    "llamascopium",
    "Llamascopium 2.0.0b34",
    # it imports HookedTransformer, which 4.0 no longer has
    (_TORCH, "llamascopium==2.0.0b34", "transformer-lens==3.9.0", "transformers==5.23.0"),
)
DICTIONARY_LEARNING = Environment(
    "dictionary_learning",
    "dictionary_learning 0.1.0",
    (_TORCH, "dictionary-learning==0.1.0", "transformers==5.23.0"),
    removed=("torchvision",),  # where it is not built for this torch, transformers fails to import beside it
)
OVERCOMPLETE = Environment(
    "overcomplete", "overcomplete 0.3.0", (_TORCH, "overcomplete==0.3.0"), removed=("torchvision",)
)
PEERS = (SAELENS, LLAMASCOPIUM, DICTIONARY_LEARNING, OVERCOMPLETE)


def python_of(environment: Environment, folder: Path) -> Path:
    """Its interpreter, after installing what is not there; the note of what was installed is written last."""
    home = folder / environment.name
    python, note = home / "bin" / "python", home / "installed"
    wanted = "\n".join((*environment.requirements, *(f"without {one}" for one in environment.removed)))
    if not note.exists() or note.read_text() != wanted:
        _run(sys.executable, "-m", "venv", "--clear", str(home))
        _run(str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *environment.requirements)
        for one in environment.removed:
            _run(str(python), "-m", "pip", "uninstall", "--quiet", "--yes", one)
        _check(python, environment)
        note.write_text(wanted)
    return python


def _check(python: Path, environment: Environment) -> None:
    listed = _run(str(python), "-m", "pip", "list", "--format=freeze", "--disable-pip-version-check").splitlines()
    if found := [line for line in listed if line.startswith(("nvidia", "cuda", "triton"))]:
        raise RuntimeError(
            f"{environment.name} is to run on the CPU like the others, but {', '.join(found)} came with it: "
            "set PIP_EXTRA_INDEX_URL to an index of CPU builds of torch, and run again"
        )


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise RuntimeError(f"`{' '.join(command)}` ended with {done.returncode}: {last}")
    return done.stdout


if __name__ == "__main__":
    for one in PEERS:
        if one.name in sys.argv[1:]:
            print(python_of(one, Path(__file__).resolve().parents[2] / "build" / "peers"))
