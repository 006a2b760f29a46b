"""What every deployment file must agree with: pyproject.toml and garner's version."""

import re
import tomllib
from pathlib import Path

from storage.artifact import VERSION

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
_NEEDS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
RAY = next(need for need in _NEEDS if need.startswith("ray[")).partition("==")[2]
TORCH = next(need for need in _NEEDS if need.startswith("torch=="))
IMAGE = f"registry.example.com/garner:{VERSION}"
SECRET = re.compile(
    r"AKIA[0-9A-Z]{16}|aws_(access|secret)|AWS_(ACCESS|SECRET|SESSION)|BEGIN [A-Z ]*PRIVATE KEY|hf_[A-Za-z]{20}"
    r"|RAY_AUTH_TOKEN=|HF_TOKEN=",
    re.IGNORECASE,
)
"""Keys, and names that keys are given under."""
