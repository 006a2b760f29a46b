"""Stored number types: how each is named, kept in Zarr, and filled where nothing was written."""

from typing import Literal

import ml_dtypes
import numpy as np

DtypeName = Literal["bfloat16", "float16", "float32"]

_LOGICAL: dict[DtypeName, np.dtype] = {
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
    "float32": np.dtype(np.float32),
}
BFLOAT16_NAN = 0x7FC0
"""Fill of unwritten bfloat16 rows, so that they read as NaN."""


def logical(name: DtypeName) -> np.dtype:
    """The NumPy dtype that readers see."""
    return _LOGICAL[name]


def stored(name: DtypeName) -> np.dtype:
    """The dtype in zarr.json: Zarr has no bfloat16, so its bits are kept as uint16."""
    return np.dtype(np.uint16) if name == "bfloat16" else _LOGICAL[name]


def fill(name: DtypeName) -> int | float:
    """The Zarr fill value: NaN in every type."""
    return BFLOAT16_NAN if name == "bfloat16" else float("nan")


def largest(name: DtypeName) -> float:
    """The largest finite magnitude the type holds."""
    return float(ml_dtypes.finfo(_LOGICAL[name]).max)  # type: ignore[no-untyped-call]
