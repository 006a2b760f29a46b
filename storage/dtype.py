"""Stored number types: how each is named, kept in Zarr, encoded, and filled where nothing was written.

N: rows, D: width of a row, W: entries of a stored row, G: blocks of a row.
"""

from typing import Literal

import ml_dtypes
import numpy as np

FloatName = Literal["bfloat16", "float16", "float32"]
"""Number types of arithmetic."""
DtypeName = Literal["bfloat16", "float16", "float32", "int8"]
"""Number types of stored rows."""

_LOGICAL: dict[DtypeName, np.dtype] = {
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
    "float32": np.dtype(np.float32),
    "int8": np.dtype(np.float32),
}
_STORED: dict[DtypeName, np.dtype] = _LOGICAL | {"bfloat16": np.dtype(np.uint16), "int8": np.dtype(np.int8)}
_FILL: dict[DtypeName, int | float] = {"bfloat16": 0x7FC0, "float16": np.nan, "float32": np.nan, "int8": -1}
BLOCK = 64
"""Columns of an int8 row that share a scale: one for the whole row would drown the others beside a massive one."""


def logical(name: DtypeName) -> np.dtype:
    """The NumPy dtype that readers see; of int8 codes, what they decode to."""
    return _LOGICAL[name]


def stored(name: DtypeName) -> np.dtype:
    """The dtype in zarr.json: Zarr has no bfloat16, so its bits are kept as uint16."""
    return _STORED[name]


def stored_width(name: DtypeName, d: int) -> int:
    """Entries of a stored row: d, and for int8 the four bytes of each block's scale behind them."""
    return d + 4 * _blocks(d) if name == "int8" else d


def fill(name: DtypeName) -> int | float:
    """The Zarr fill value: rows that were never written read as NaN in every type (int8: its scales do)."""
    return _FILL[name]


def largest(name: DtypeName) -> float:
    """The largest finite magnitude the type holds."""
    return float(ml_dtypes.finfo(_LOGICAL[name]).max)  # type: ignore[no-untyped-call]


def encode(name: DtypeName, x_ND: np.ndarray) -> np.ndarray:
    """Rows in the logical dtype as they are stored, [N, W]; only int8 rounds."""
    if name != "int8":
        return x_ND.view(_STORED[name])
    (n, d), blocks = x_ND.shape, _blocks(x_ND.shape[1])
    x_NGB = np.zeros((n, blocks, BLOCK), np.float32)
    x_NGB.reshape(n, blocks * BLOCK)[:, :d] = x_ND
    with np.errstate(invalid="ignore", divide="ignore"):
        scale_NG = np.abs(x_NGB).max(axis=2) / 127
        scale_NG[~np.isfinite(scale_NG)] = np.nan
        codes_NGB = np.rint(x_NGB / np.where(scale_NG == 0, 1, scale_NG)[..., None])
    codes_ND = np.nan_to_num(codes_NGB, nan=0.0).astype(np.int8).reshape(n, blocks * BLOCK)[:, :d]
    return np.concatenate([codes_ND, scale_NG.astype("<f4").view(np.int8)], axis=1)


def decode(name: DtypeName, x_NW: np.ndarray, d: int) -> np.ndarray:
    """Stored rows as readers see them, [N, D]: a view, but for int8."""
    if name != "int8":
        return x_NW.view(_LOGICAL[name])
    scale_NG = scales(x_NW, d)
    x_ND = x_NW[:, :d].astype(np.float32)
    for block in range(scale_NG.shape[1]):
        x_ND[:, block * BLOCK : (block + 1) * BLOCK] *= scale_NG[:, block : block + 1]
    return x_ND


def scales(x_NW: np.ndarray, d: int) -> np.ndarray:
    """The scale of every block of int8 rows, float32 [N, G]: an entry is its code times its block's scale."""
    return np.ascontiguousarray(x_NW[:, d:]).view("<f4")


def rounding(name: DtypeName, x_NW: np.ndarray, d: int) -> float:
    """Squared error that int8 is expected to have added, summed over entries: scale^2 / 12 each; 0 for other types.

    It follows from the stored rows alone, so that whoever adopts a shard reports the same. No entry is further off
    than half its scale.
    """
    if name != "int8":
        return 0.0
    widths_G = np.minimum(BLOCK, d - BLOCK * np.arange(_blocks(d)))
    return float(np.nansum(scales(x_NW, d).astype(np.float64) ** 2 @ widths_G) / 12)


def _blocks(d: int) -> int:
    return -(-d // BLOCK)
