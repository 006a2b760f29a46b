"""From the lines of a token part to its rows: which tokens have one, and what a column says of these.

L: lines of the part, N: its rows, T: its tokens.
"""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa


def selected(table: "pa.Table") -> bool:
    """Whether some of the part's tokens have no row."""
    return int(table["rows"].null_count) < len(table)


def at_rows(table: "pa.Table", column: str) -> tuple[np.ndarray, np.ndarray]:
    """What a column of lists, a value per token, holds at the rows [N], and whether it does, bool [N]; 0 elsewhere."""
    values, lengths_L = lists(table, column)
    rows_L = table["length"].to_numpy()
    known_N = np.repeat(_given(table, column), rows_L)
    if not selected(table) and known_N.all():
        return values, known_N
    at_N = np.repeat(_before(lengths_L), rows_L) + within(table)
    found_N = np.zeros(len(at_N), values.dtype)
    found_N[known_N] = values[at_N[known_N]]
    return found_N, known_N


def positions(table: "pa.Table") -> np.ndarray:
    """Position of each row's token in its sequence, int32 [N]."""
    sequence_L = table["sequence"].to_numpy()
    tokens_L = _before(lists(table, "input_ids")[1])
    opened_L = tokens_L[np.searchsorted(sequence_L, sequence_L)]
    found_N: np.ndarray = np.repeat(tokens_L - opened_L, table["length"].to_numpy()) + within(table)
    return found_N.astype(np.int32)


def within(table: "pa.Table") -> np.ndarray:
    """Position of each row's token in its span, int64 [N]."""
    rows_L = table["length"].to_numpy()
    found_N = np.arange(rows_L.sum()) - np.repeat(_before(rows_L), rows_L)
    found_N[np.repeat(_given(table, "rows"), rows_L)] = lists(table, "rows")[0]
    return found_N


def lists(table: "pa.Table", column: str) -> tuple[np.ndarray, np.ndarray]:
    """The values of a column of lists, one list after the other, and how many each line has; 0 where it is null."""
    import pyarrow.compute as pc

    chunk = table[column].combine_chunks()
    lengths_L = pc.fill_null(pc.list_value_length(chunk), 0).to_numpy(zero_copy_only=False)
    return np.asarray(chunk.flatten().to_numpy(zero_copy_only=False)), lengths_L


def _given(table: "pa.Table", column: str) -> np.ndarray:
    return np.asarray(table[column].is_valid().to_numpy())


def _before(counts_L: np.ndarray) -> np.ndarray:
    """The sum of all earlier counts, int64 [L]."""
    total_L: np.ndarray = np.cumsum(counts_L, dtype=np.int64) - counts_L
    return total_L
