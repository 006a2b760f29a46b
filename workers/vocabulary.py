"""How each token of a vocabulary is spelt, in bytes that mean the same in every family of tokenizers.

A space before a word is a byte of its token, however the tokenizer writes it; nothing is stripped or lower-cased.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from workers.encode import Encoder

Kind = Literal["text", "continuation", "byte", "special", "unused"]
"""What a token stands for: text, the rest of a word that another token began (WordPiece's `##`), one byte of a
character that has no token, a mark of the model's own, or nothing yet."""

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_UNUSED = re.compile(r"[\[<]\|?(?:unused|reserved)\w*\|?[\]>]|madeupword\d+")
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
"""What sentencepiece writes for a space."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A token of a vocabulary."""

    token: int
    text: str
    """As the tokenizer decodes it by itself; a byte that is no character reads as U+FFFD."""
    kind: Kind
    spelt: bytes
    """Its bytes; those of its name where it is `special` or `unused`."""


Spelling = Callable[[str], tuple[Kind, bytes]]


def entries(encoder: Encoder, size: int) -> Iterator[Entry]:
    """Every token that the tokenizer has among the first `size`, by id; rows of a table beyond it have none."""
    tokenizer = encoder.tokenizer
    pieces = {token: piece for piece, token in tokenizer.get_vocab().items()}
    special = {*encoder.special_ids().tolist(), tokenizer.unk_token_id}
    added = set(tokenizer.added_tokens_decoder)
    spell = _spelling(tokenizer, pieces)
    for token, piece in sorted(pieces.items()):
        if token >= size:
            return
        if token in special:
            kind, spelt = _named("special", piece)
        elif _UNUSED.fullmatch(piece):
            kind, spelt = _named("unused", piece)
        else:
            kind, spelt = _named("text", piece) if token in added else spell(piece)
        yield Entry(token, encoder.decode(token), kind, spelt)


def _named(kind: Kind, piece: str) -> tuple[Kind, bytes]:
    return kind, piece.encode()


def _spelling(tokenizer: Any, pieces: Mapping[int, str]) -> Spelling:
    """How the family of this tokenizer writes its tokens, told from what it does and not from its name."""
    if not tokenizer.is_fast:
        marked = any(piece.startswith(_SPACE) for piece in pieces.values())
        return (
            _sentence_piece if marked else lambda piece: ("text", tokenizer.convert_tokens_to_string([piece]).encode())
        )
    inner = tokenizer.backend_tokenizer
    layout = json.loads(inner.to_str())
    steps = [*_steps(layout["pre_tokenizer"]), *_steps(layout["decoder"])]
    kinds = {step["type"] for step in steps}
    if "ByteLevel" in kinds:
        return _byte_level(_bytes_of_characters())
    if "Metaspace" in kinds or any(step.get("pattern") == {"String": _SPACE} for step in steps):
        return _sentence_piece
    if suffix := layout["model"].get("end_of_word_suffix"):
        return lambda piece: ("text", piece.replace(suffix, " ").encode())
    return _by_words(inner, layout["model"].get("continuing_subword_prefix") or "")


def _steps(part: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """A pre-tokenizer or decoder, or those that it is made of."""
    if part is None:
        return
    inner = part.get("pretokenizers") or part.get("decoders")
    if inner is None:
        yield part
    for step in inner or ():
        yield from _steps(step)


def _sentence_piece(piece: str) -> tuple[Kind, bytes]:
    if byte := _BYTE.fullmatch(piece):
        return "byte", bytes.fromhex(byte[1])
    return "text", piece.replace(_SPACE, " ").encode()


def _byte_level(code: Mapping[str, int]) -> Spelling:
    """A character that stands for no byte, as some tables have beside the others, is itself."""
    own = {character: bytes([byte]) for character, byte in code.items()}
    return lambda piece: ("text", b"".join(own.get(character, character.encode()) for character in piece))


def _bytes_of_characters() -> dict[str, int]:
    """Which byte each printable character stands for in byte-level vocabularies (Radford et al. 2019)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


def _by_words(inner: Any, prefix: str) -> Spelling:
    """Tokens without a mark begin a word, and so come after a space, unless the tokenizer itself parts them from what
    stands before them, as it does with punctuation."""

    def spell(piece: str) -> tuple[Kind, bytes]:
        if prefix and piece.startswith(prefix) and piece != prefix:
            return "continuation", piece.removeprefix(prefix).encode()
        return "text", (" " * (not _stands_alone(inner, piece)) + piece).encode()

    return spell


def _stands_alone(inner: Any, piece: str) -> bool:
    text = f"a{piece}"
    if inner.normalizer is not None:
        text = inner.normalizer.normalize_str(text)
    return inner.pre_tokenizer is None or len(inner.pre_tokenizer.pre_tokenize_str(text)) > 1
