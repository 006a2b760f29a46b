"""The sites that a cache's table asks for: whether its model and its rows have them, and how wide each is."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.recipe import CacheTable
from storage.errors import InputError
from storage.sets import TokenSet
from storage.site import FIRST, Site

if TYPE_CHECKING:
    from workers.model import ModelFacts

_ROWS = {"entries": "a vocabulary", "patches": "images"}
"""What the rows are of, where they are not of text."""


def resolve(
    table: CacheTable, model: "ModelFacts", kind: str, where: str
) -> tuple[dict[str, TokenSet], dict[str, int]]:
    """The tokens of every set and the width of every site asked for; `kind` is that of the tokenisation.

    `InputError` with what there is instead, before anything is harvested.
    """
    for site in table.sites:
        _check_rows(site, kind, where)
    sets = {site.path: _tokens(site, table, model, where) for site in table.sites if site.kind == "logits"}
    widths = _widths([site for site in table.sites if site.kind != "logits"], model, kind, where)
    widths |= {site: len(sets[site.path].ids) + 1 for site in table.sites if site.kind == "logits"}
    return sets, {str(site): widths[site] for site in table.sites}


def _check_rows(site: Site, kind: str, where: str) -> None:
    """Refuses a site that rows of this kind cannot have."""
    if kind == "entries" and site.kind not in ("embed", "unembed"):
        raise InputError(f"{where}.sites: a vocabulary has the sites embed and unembed, found {site}: leave it out")
    if kind in _ROWS and site.kind in ("mass", "logits"):
        raise InputError(f"{where}.sites: {site} is for tokens of a text, its rows are of {_ROWS[kind]}: leave it out")
    if site.kind == "mass" and site.path != FIRST and kind != "chat":
        raise InputError(
            f"{where}.sites: {site} is attention to the messages of a role, and kind = {kind!r} cuts no chats: "
            f"name mass.{FIRST}.{site.layer}, or a corpus of messages"
        )


def _tokens(site: Site, table: CacheTable, model: "ModelFacts", where: str) -> TokenSet:
    from workers import logits

    try:
        return logits.token_set(model.source, model.revision, table.sets[site.path])
    except InputError as error:
        raise InputError(f"{where}.sets.{site.path}: {error}") from error


def _widths(sites: Sequence[Site], model: "ModelFacts", kind: str, where: str) -> dict[Site, int]:
    from workers import model as models

    if kind == "entries":
        return dict.fromkeys(sites, model.width)
    try:
        return models.check_sites(model.source, model.revision, sites)
    except InputError as error:
        raise InputError(f"{where}.sites: {error}") from error
