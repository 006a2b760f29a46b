"""Train, validation and test by document: the same document is on the same side in every cache.

D documents, N rows (or any other examples).
"""

import hashlib
from dataclasses import dataclass

import numpy as np

from storage.errors import InputError

_HASH_RANGE = 2.0**64


@dataclass(frozen=True)
class Split:
    """Three boolean masks that share nothing and cover everything: over documents, or over rows after `at`."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray

    def at(self, documents_N: np.ndarray) -> "Split":
        """The same split over rows, given the document number of each (`cache.tokens.documents(rows)`)."""
        return Split(self.train[documents_N], self.validation[documents_N], self.test[documents_N])


def split_documents(document_ids: np.ndarray, *, validation: float = 0.15, test: float = 0.25, seed: int = 0) -> Split:
    """Each document goes where the hash of its own id (and `seed`) says, so other documents never move it.

    `document_ids` is `cache.tokens.document_ids`, or any array of strings that must stay together (a speaker, a
    source): equal strings land on the same side. The shares are met on average. A share of 0 leaves its part empty;
    any other part that ends up empty is refused.
    """
    assert min(validation, test, 1 - validation - test) >= 0, f"shares {validation} and {test}"
    place_D = np.fromiter((_place(str(name), seed) for name in document_ids), np.float64, len(document_ids))
    in_test = place_D < test
    in_validation = ~in_test & (place_D < test + validation)
    split = Split(~in_test & ~in_validation, in_validation, in_test)
    _refuse_empty(split, validation, test)
    return split


def _place(name: str, seed: int) -> float:
    """A number in [0, 1) that depends on nothing but the two."""
    digest = hashlib.blake2b(name.encode(), digest_size=8, key=str(seed).encode()).digest()
    return int.from_bytes(digest, "little") / _HASH_RANGE


def _refuse_empty(split: Split, validation: float, test: float) -> None:
    parts = {
        "train": (split.train, 1 - validation - test),
        "validation": (split.validation, validation),
        "test": (split.test, test),
    }
    for name, (mask, share) in parts.items():
        if share > 0 and not mask.any():
            raise InputError(
                f"a split by document wants documents for train, validation and test; of the {len(mask)} "
                f"found none fell to {name} ({share:.0%}): harvest more documents, or try another seed"
            )
