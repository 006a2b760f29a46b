"""Frozen values: what is configured, what is recorded, and the identity of both."""

import hashlib
import re
from collections.abc import Mapping
from typing import Any, TypeVar, dataclass_transform

import google_crc32c
import msgspec

from storage.advice import advice
from storage.errors import InputError, RunError

T = TypeVar("T")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_CHECK = b',"crc32c":'


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Value(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every configured or recorded value: frozen, keyword-only, strict when decoded."""


def canonical(value: object) -> bytes:
    """JSON of `value` with sorted keys and defaults included: equal values give equal bytes."""
    return msgspec.json.encode(value, order="deterministic", enc_hook=_encode)


def identity(value: object) -> str:
    """12 hex digits of the SHA-256 of the canonical JSON: the address of what `value` describes."""
    return hashlib.sha256(canonical(value)).hexdigest()[:12]


def decode(data: bytes, kind: type[T], where: str) -> T:
    """`data` (JSON) as a `kind`; `where` names the object in the error."""
    try:
        return msgspec.json.decode(data, type=kind, dec_hook=_decode)
    except msgspec.DecodeError as error:
        raise InputError(
            f"{where} is not a valid {kind.__name__} ({error}): it was changed by hand; bring back a copy"
        ) from error


def signed(value: object) -> bytes:
    """A record as it is kept: `canonical(value)` with one more member, last, that holds the CRC-32C of the rest."""
    body = canonical(value)
    return body[:-1] + _CHECK + str(google_crc32c.value(body)).encode() + b"}"


def decode_signed(data: bytes, kind: type[T], where: str) -> T:
    """A record from its bytes; `RunError` if a single one of them is not as it was written."""
    return decode(unsigned(data, where), kind, where)


def unsigned(data: bytes, where: str) -> bytes:
    """The JSON of a record without its checksum, once it is known to match."""
    body = data.rpartition(_CHECK)[0] + b"}"
    if body[:-1] + _CHECK + str(google_crc32c.value(body)).encode() + b"}" != data:
        raise RunError(f"{where} is damaged: its checksum does not match; `garner verify` says what else is")
    return body


def convert(data: Mapping[str, Any], kind: Any, where: str) -> Any:
    """A decoded TOML table as a `kind` (a `Value` or a union of them); `where` is its path in the recipe."""
    try:
        return msgspec.convert(data, type=kind, dec_hook=_decode, strict=True)
    except msgspec.ValidationError as error:
        what, _, path = str(error).partition(" - at `$")
        path = path.rstrip("`")
        raise InputError(f"{where}{path}: {what}{advice(what, path, kind, data)}") from error


def checked_name(text: str, what: str) -> str:
    """`text`, once it is known to be one plain path component; `what` says whose name it is."""
    if not _NAME.fullmatch(text) or ".." in text:
        raise InputError(
            f"{what} is named {text!r}: use letters, digits, '.', '_' and '-' only, starting with a letter or digit"
        )
    return text


def _encode(value: object) -> object:
    return str(value)


def _decode(kind: type, raw: object) -> object:
    """Values written as one string (`site = "resid.6"`) have a `parse` class method."""
    if not hasattr(kind, "parse"):
        raise NotImplementedError(f"{kind.__name__} has no parse")
    if not isinstance(raw, str):
        raise ValueError(f"wanted a {kind.__name__.lower()} in quotes, found {raw!r}")
    return kind.parse(raw)
