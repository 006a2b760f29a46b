"""`sets/<name>.json`: which tokens a cache's `logits.<name>` are of. They are no part of its identity, so they are
claimed once, and whoever comes later with other tokens takes another name."""

from storage.errors import InputError, RunError
from storage.url import Folder
from storage.value import Value, decode_signed, signed


class TokenSet(Value):
    """The tokens of one set, in the order of the site's columns."""

    ids: tuple[int, ...]
    texts: tuple[str, ...]
    """What each was declared as; "" where by its id."""


def claim(cache: Folder, name: str, wanted: TokenSet) -> None:
    """Write the set, or find that the cache holds the same; `InputError` if it holds another of that name."""
    cache.create(_object(name), signed(wanted))
    check(cache, name, wanted)


def check(cache: Folder, name: str, wanted: TokenSet) -> None:
    """`InputError` if the cache holds other tokens under that name."""
    held = read(cache, name) if cache.exists(_object(name)) else wanted
    if held.ids != wanted.ids:
        raise InputError(
            f"{cache} holds logits.{name} of tokens {_shown(held)}; the recipe's set {name!r} is {_shown(wanted)}: "
            "give it another name, or restore the tokens"
        )


def read(cache: Folder, name: str) -> TokenSet:
    """The set of that name."""
    data = cache.find(_object(name))
    if data is None:
        raise RunError(f"{cache / _object(name)} is not there, which says whose logits these are: bring back a copy")
    return decode_signed(data, TokenSet, str(cache / _object(name)))


def _object(name: str) -> str:
    return f"sets/{name}.json"


def _shown(tokens: TokenSet) -> str:
    return ", ".join(
        f"{one} {text!r}" if text else str(one) for one, text in zip(tokens.ids, tokens.texts, strict=True)
    )
