"""A recipe as it can be sent to another machine: settings applied, its cluster the one it runs on, paths absolute."""

import json
import math
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, time
from pathlib import Path
from typing import Any

import msgspec

from pipeline.recipe import Opened, assign
from storage.errors import InputError
from storage.value import Value

_CREDENTIALS = re.compile(r"://[^/@\s]*:[^/@\s]*@")


class Portable(Value):
    """What is sent of a recipe."""

    toml: str
    local: tuple[str, ...]
    """What it names on this machine's disks, as `field: path`."""


def portable(path: str, settings: Sequence[str], opened: Opened) -> Portable:
    """The recipe at `path`, which was read as `opened`; `InputError` where it cannot run elsewhere as it stands."""
    table: dict[str, Any] = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    for setting in settings:
        table = assign(table, setting)
    _check_pool(opened)
    for where, text in _texts(table, ""):
        if _CREDENTIALS.search(text):
            raise InputError(
                f"{where} holds a password: a recipe that is sent can be read by all who use the cluster; give its "
                "machines a role, or a secret of their own, and leave it out"
            )
    if table.get("schedule", {}).get("alerts", {}).get("webhook", "$").startswith("https://"):
        raise InputError(
            "schedule.alerts.webhook is an address, which all who use the cluster could read: write the name of an "
            'environment variable of its machines, such as "$SLACK_WEBHOOK"'
        )
    places = dict(_places(opened))
    for field, place in places.items():
        *outer, last = field.split("/")
        inner = table
        for key in outer:
            inner = inner[key]
        inner[last] = place
    table["pool"] = table.get("pool", {}) | {"address": "auto"}
    local = tuple(f"{field.replace('/', '.')}: {place}" for field, place in places.items() if _is_local(place))
    return Portable(toml="".join(f"{_key(key)} = {_render(value)}\n" for key, value in table.items()), local=local)


def _check_pool(opened: Opened) -> None:
    pool = opened.recipe.pool
    if pool.kind == "local":
        raise InputError(
            'pool.kind = "local" would run all of it in one process on the head: add --set pool.kind=ray, '
            "or use `garner run` here"
        )
    if opened.lake.startswith("memory://"):
        raise InputError(f"lake = {opened.lake!r} lives in one process: name a bucket")
    if pool.mirror is not None and not pool.mirror.startswith(("/", "~")):
        raise InputError(
            f"pool.mirror = {pool.mirror!r} is a folder of each machine there: write it as an absolute path"
        )


def _places(opened: Opened) -> Iterator[tuple[str, str]]:
    """Every field that names a place, made absolute; a name of the hub stays as it is."""
    from pipeline.facts import model_source

    yield "lake", opened.lake
    for name, model in opened.recipe.models.items():
        yield f"models/{name}/name", model_source(model, opened.base)
    for name, corpus in opened.corpora.items():
        for key in ("files", "images", "hub"):
            if (place := getattr(corpus, key, None)) is not None:
                yield f"corpora/{name}/{key}", place


def _is_local(place: str) -> bool:
    return place.startswith("/") or "file://" in place or "local://" in place


def _texts(value: object, where: str) -> Iterator[tuple[str, str]]:
    match value:
        case str():
            yield where, value
        case Mapping():
            for key, one in value.items():
                yield from _texts(one, f"{where}.{key}" if where else key)
        case list():
            for one in value:
                yield from _texts(one, where)


def _render(value: object) -> str:
    """A decoded TOML value as TOML again, in one line."""
    match value:
        case Mapping():
            return "{" + ", ".join(f"{_key(key)} = {_render(one)}" for key, one in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(_render, value)) + "]"
        case date() | time():
            return value.isoformat()
        case float() if not math.isfinite(value):
            return str(value)
        case str():
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case _:
            return msgspec.json.encode(value).decode()


def _key(key: str) -> str:
    return _render(key)
