"""What has to stay together when examples are split.

D documents.
"""

import numpy as np

from storage.errors import InputError
from storage.index import TokenIndex


def group_names(column: str | None, tokens: TokenIndex) -> np.ndarray:
    """A name for each document, str objects [D]: its id, or that of the group that the column puts it in."""
    ids_D = tokens.document_ids
    if column is None:
        return ids_D
    values_D = tokens.label(column)
    named = {str(value) for value in values_D if value is not None}
    if len(named) < 3 and all(value is not None for value in values_D):
        raise InputError(
            f"group = {column!r} has {len(named)} values ({', '.join(sorted(named))}); a split wants one at least to "
            "train, one to choose and one to measure on: name a column with more, or leave group out"
        )
    pairs = zip(ids_D, values_D, strict=True)
    return np.array([f"document {one}" if value is None else f"group {value}" for one, value in pairs], object)
