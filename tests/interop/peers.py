"""The other systems, each in the environment that `make interop` makes under build/peers."""

import os
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def python_of(environment):
    """Its interpreter; a test that needs one is skipped where there is none."""
    home = ROOT / "build" / "peers" / environment.name
    if not (home / "installed").exists():
        pytest.skip(f"{environment.title} has no environment here: `make interop` makes it")
    return home / "bin" / "python"


def run(environment, script, *words, **variables):
    """Run a script of this folder with the system's interpreter."""
    command = [python_of(environment), HERE / script, *words]
    offline = {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, env={**os.environ, **offline, **variables}
    )
    assert done.returncode == 0, done.stderr[-2000:]
