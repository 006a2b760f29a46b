"""The canonical tokenisation of a cache: what its table, its corpus and its model say together."""

from typing import Any

import msgspec

from pipeline.corpus import Corpus, Images, Vocabulary, content_column
from pipeline.recipe import CacheTable
from storage.errors import InputError
from storage.value import convert


def canonical(table: CacheTable, corpus: Corpus, facts: Any, where: str) -> dict[str, Any]:
    """The canonical tokenisation: its kind follows from the corpus unless given, its context from the model."""
    from workers.tokens import Tokenisation

    holds, kinds = _kinds(corpus)
    kind = table.tokenise.get("kind", kinds[0])
    if kind not in kinds:
        raise InputError(
            f"{where}.tokenise.kind = {kind!r}: corpus {table.corpus!r} holds {holds}, which can be tokenised as "
            f"{' or '.join(kinds)}: name one of these, or another corpus"
        )
    if (kind == "patches") != (facts.kind == "vision"):
        raise InputError(
            f"{where}: model {facts.name} reads {'images' if facts.kind == 'vision' else 'text'}, "
            f"but its corpus {table.corpus!r} holds {holds}: pair it with another corpus"
        )
    if kind in ("patches", "entries") and "select" in table.tokenise:
        raise InputError(f"{where}.tokenise.select: a cache of {kind} has a row for each of them: leave it out")
    wanted: dict[str, Any] = {**table.tokenise, "kind": kind, **_context(table, facts, kind, where)}
    return dict(msgspec.to_builtins(convert(wanted, Tokenisation, f"{where}.tokenise")))


def _kinds(corpus: Corpus) -> tuple[str, tuple[str, ...]]:
    """What a corpus holds, and the kinds of tokenisation that take it, the natural one first."""
    match corpus:
        case Vocabulary():
            return "a vocabulary", ("entries",)
        case Images():
            return "images", ("patches",)
        case _:
            kind = content_column(corpus)[0]
            return kind, {"messages": ("chat",), "input_ids": ("ids",)}.get(kind, ("documents", "packed"))


def _context(table: CacheTable, facts: Any, kind: str, where: str) -> dict[str, int | None]:
    """`context` where the kind has one: the table's, else the model's limit, else none."""
    wanted, limit = table.context, facts.context
    if "context" in table.tokenise:
        raise InputError(f"{where}.tokenise.context = {table.tokenise['context']!r}: write it as {where}.context")
    if kind in ("patches", "entries"):
        if wanted is not None:
            raise InputError(f"{where}.context = {wanted}: {kind} have no context; leave it out")
        return {}
    if wanted is not None and limit and wanted > limit:
        raise InputError(f"{where}.context = {wanted}: model {facts.name} takes at most {limit} tokens; lower it")
    if kind == "packed" and not (wanted or limit):
        raise InputError(
            f"{where}.context: packed windows need a length, and model {facts.name} has no limit to take it from: "
            "name one, for instance context = 512"
        )
    return {"context": wanted or limit or None}
