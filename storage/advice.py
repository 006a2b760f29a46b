"""What to say of a value that does not decode, behind msgspec's own words: what stands there, and what may."""

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import inspect

_STEP = re.compile(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`")
_SHOWN = 60
"""Characters of a wrong value that a message shows."""


def advice(problem: str, path: str, kind: Any, data: Any) -> str:
    """What to add to msgspec's `problem` at `path` (`.activation.k`) of `data`, which should be a `kind`."""
    wanted, there = inspect.type_info(kind), data
    for key, index in _STEP.findall(path):
        if index == "...":
            return ""
        wanted = _inner(_chosen(wanted, there), key)
        there = there[int(index)] if index else there.get(key)
    if unknown := _UNKNOWN.fullmatch(problem):
        return f": {suggestion(unknown[1], _fields(_chosen(wanted, there)))}"
    if problem.startswith("Invalid"):
        return f": {suggestion(str(there), _choices(wanted))}"
    if problem.startswith("Expected"):
        return f", found {there!r:.{_SHOWN}}"
    return ": add it" if "missing required" in problem else ""


def suggestion(name: str, there: Iterable[str]) -> str:
    """What the user may have meant, and what there is."""
    near, have = difflib.get_close_matches(name, list(there), n=1), ", ".join(there) or "none"
    return f"did you mean {near[0]}? There are: {have}" if near else f"there are: {have}"


def _chosen(wanted: inspect.Type, there: Any) -> inspect.Type:
    """Of a union of values the one that the table's tag names, where it names one."""
    if not isinstance(wanted, inspect.UnionType):
        return wanted
    structs = [one for one in wanted.types if isinstance(one, inspect.StructType)]
    if isinstance(there, Mapping):
        structs = [one for one in structs if one.tag is None or there.get(str(one.tag_field)) == one.tag] or structs
    return structs[0] if len(structs) == 1 else wanted


def _inner(wanted: inspect.Type, key: str) -> inspect.Type:
    """The type of a field, of a tag, or of an item."""
    match wanted:
        case inspect.StructType(fields=fields):
            return next((field.type for field in fields if field.encode_name == key), inspect.AnyType())
        case inspect.UnionType(types=types):
            tags = tuple(one.tag for one in types if isinstance(one, inspect.StructType) and one.tag_field == key)
            return inspect.LiteralType(values=tags)
        case inspect.DictType(value_type=inner) | inspect.VarTupleType(item_type=inner):
            return inner
        case _:
            return inspect.AnyType()


def _fields(wanted: inspect.Type) -> list[str]:
    if not isinstance(wanted, inspect.StructType):
        return []
    tag = [wanted.tag_field] if wanted.tag_field else []
    return [*tag, *(field.encode_name for field in wanted.fields)]


def _choices(wanted: inspect.Type) -> list[str]:
    return [str(value) for value in wanted.values] if isinstance(wanted, inspect.LiteralType) else []
