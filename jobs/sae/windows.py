"""The tokens around a row: their rows, their text, and what features say there.

E examples, W places of a window, U different rows, M features asked for, A active entries.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.sparse

from jobs.sae.codes import Codes
from storage.index import TokenIndex

Encode = Callable[[np.ndarray], Codes]
"""The codes of rows, given their ascending numbers."""
_ROWS = 4096
"""Rows encoded at once."""


def windows(tokens: TokenIndex, rows_E: np.ndarray, before: int, after: int) -> np.ndarray:
    """Rows of up to so many tokens before and after each row, itself at place `before`: [E, W], -1 where there is none.

    A window ends where its document, its sequence or an unbroken run of rows does.
    """
    steps_W = np.arange(-before, after + 1)
    rows_EW = rows_E[:, None] + steps_W
    inside_EW = (rows_EW >= 0) & (rows_EW < tokens.n_rows)
    flat = np.where(inside_EW, rows_EW, rows_E[:, None]).reshape(-1)
    for of in (tokens.sequences, tokens.documents):
        inside_EW &= of(flat).reshape(rows_EW.shape) == of(rows_E)[:, None]
    places_EW = tokens.positions(flat).reshape(rows_EW.shape)
    inside_EW &= places_EW - tokens.positions(rows_E)[:, None] == steps_W
    return np.where(inside_EW, rows_EW, -1)


@dataclass(frozen=True)
class Sounding:
    """The codes of some features at some rows."""

    rows_U: np.ndarray
    """Ascending."""
    features_M: np.ndarray
    """Ascending."""
    z_UM: scipy.sparse.csr_array

    def at(self, rows: np.ndarray, features: np.ndarray) -> np.ndarray:
        """The code of each feature at each row, broadcast against one another; 0 at row -1."""
        rows, features = np.broadcast_arrays(rows, features)
        known = rows.reshape(-1) >= 0
        u, m = (
            np.searchsorted(self.rows_U, rows.reshape(-1)[known]),
            np.searchsorted(self.features_M, features.reshape(-1)[known]),
        )
        found = np.zeros(rows.size, np.float32)
        found[known] = self.z_UM[u, m] if known.any() else 0
        return found.reshape(rows.shape)


def sound(rows: np.ndarray, features: np.ndarray, encode: Encode) -> Sounding:
    """What `features` say at `rows` (those that are -1 left out), encoded a few thousand rows at a time."""
    rows_U, features_M = np.unique(rows[rows >= 0]), np.unique(features)
    u, m, values = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [np.empty(0, np.float32)]
    for first in range(0, len(rows_U), _ROWS):
        at_A, features_A, values_A = (part.cpu().numpy() for part in encode(rows_U[first : first + _ROWS]).active())
        mine_A = np.isin(features_A, features_M)
        u.append(first + at_A[mine_A])
        m.append(np.searchsorted(features_M, features_A[mine_A]))
        values.append(values_A[mine_A])
    entries = np.concatenate(values), (np.concatenate(u), np.concatenate(m))
    return Sounding(rows_U, features_M, scipy.sparse.csr_array(entries, shape=(len(rows_U), len(features_M))))


def pieces(tokens: TokenIndex, rows_W: np.ndarray) -> list[str]:
    """The text of a window's tokens, each with what stands between it and the one before: joined, they are the text.

    A token without text of its own (special tokens, image patches, further bytes of a character) is its id in brackets.
    """
    ids_W = tokens.ids(rows_W)
    if not tokens.has_text:
        return [f"[{number}]" for number in ids_W]
    begin_W, end_W = (edge_W.astype(np.int64) for edge_W in tokens.offsets(rows_W))
    if not (spoken_W := end_W > begin_W).any():
        return [f"[{number}]" for number in ids_W]
    first, stop = int(begin_W[spoken_W].min()), int(end_W[spoken_W].max())
    anchor = int(np.flatnonzero(spoken_W)[0])
    before, after = int(begin_W[anchor]) - first, stop - int(end_W[anchor])
    text = "".join(tokens.context(int(rows_W[anchor]), before=before, after=after))
    shown, cursor = [], first
    for number, spoken, end in zip(ids_W, spoken_W, end_W.tolist(), strict=True):
        own = spoken and end > cursor
        shown.append(text[cursor - first : end - first] if own else f"[{number}]")
        cursor = end if own else cursor
    return shown


def shown_tokens(tokens: TokenIndex, rows: np.ndarray) -> list[str]:
    """The text of each row's token, or its id in brackets where it has none (special tokens, image patches)."""
    ids = tokens.ids(rows)
    texts = tokens.strings(rows) if tokens.has_text else [""] * len(ids)
    return [text or f"[{number}]" for text, number in zip(texts, ids, strict=True)]
