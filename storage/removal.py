"""What is marked for removal: two steps, so that nothing anyone stands on ever goes.

First `removed.json` is created in the folder of a cache or artifact (`expired.json` in a segment's): whoever looks from
then on does not see it. `garner gc` removes the bytes later, once nothing that looked before can still be at work.
"""

from storage.url import Folder
from storage.value import Value

REMOVED = "removed.json"
"""In a cache's or an artifact's folder."""
PURGING = "purging.json"
"""Beside it once bytes are being removed: from then on there is no way back but to finish."""
EXPIRED = "expired.json"
"""In a segment's folder; its `files.json` and `plan.json` stay, for files are taken once and rows are numbered."""


class Removal(Value):
    """Who marked it, when, and why."""

    owner: str
    """User and host."""
    time: str
    """UTC by the owner's clock; for people, never compared."""
    why: str = ""


def removed(folder: Folder) -> bool:
    """Whether the cache or artifact there was marked."""
    return folder.exists(REMOVED)
