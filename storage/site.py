"""Where in a model a hidden state is read: `Site("resid", 6)`, written `resid.6`."""

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import total_ordering
from typing import Final, Literal, Self, cast

from storage.advice import suggestion
from storage.dtype import DtypeName

Kind = Literal["embed", "mass", "attn", "mlp", "resid", "unembed", "logits", "module"]

FIRST = "first"
"""The span of a sequence's first token, on which attention rests when it has nothing to do."""
SPANS = (FIRST, "system", "user", "assistant", "tool")
"""What attention mass is summed over: the first token, or the tokens that a role wrote in a chat."""

_STAGE: dict[Kind, int] = {
    "embed": 0, "mass": 1, "attn": 1, "mlp": 1, "resid": 1, "unembed": 2, "logits": 3, "module": 4,
}  # fmt: skip
_WITHIN: dict[Kind, int] = {"mass": 0, "attn": 1, "mlp": 2, "resid": 3}
_LAYERED = re.compile(r"(resid|attn|mlp)\.(\d+)")
_MASS = re.compile(r"mass\.([a-z]+)\.(\d+)")
_LOGITS = re.compile(r"logits\.([A-Za-z0-9][A-Za-z0-9_-]{0,63})")
_FOREIGN = (
    (re.compile(r"blocks\.(\d+)\.hook_resid_post"), "resid"),
    (re.compile(r"blocks\.(\d+)\.hook_attn_out"), "attn"),
    (re.compile(r"blocks\.(\d+)\.hook_mlp_out"), "mlp"),
)


@total_ordering
class Site:
    """A named place in a model; the only form inside garner. Sites sort by depth.

    `resid` is the output of block `layer` (0-based), `attn` and `mlp` are what the block's two halves add to the
    stream, `embed` is what enters block 0, `unembed` is what the unembedding reads (after the final norm), and
    `module` is the output of the module at `path`. `mass` is the probability with which each head of block `layer`
    attends to the tokens of the span `path`, `logits` are those of the tokens in the set `path`, then the log-sum-exp
    of all. A plain class, so that recipes and records show it as one string.
    """

    __slots__ = ("kind", "layer", "path")

    def __init__(self, kind: Kind, layer: int = 0, path: str = "") -> None:
        self.kind: Final = kind
        self.layer: Final = layer
        self.path: Final = path

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Site) and self._order == other._order

    def __lt__(self, other: "Site") -> bool:
        return self._order < other._order

    def __hash__(self) -> int:
        return hash(self._order)

    def __repr__(self) -> str:
        return f"Site({str(self)!r})"

    @property
    def _order(self) -> tuple[int, int, int, str]:
        return (_STAGE[self.kind], self.layer, _WITHIN.get(self.kind, 0), self.path)

    def __str__(self) -> str:
        match self.kind:
            case "embed" | "unembed":
                return self.kind
            case "module":
                return f"module:{self.path}"
            case "logits":
                return f"logits.{self.path}"
            case "mass":
                return f"mass.{self.path}.{self.layer}"
            case _:
                return f"{self.kind}.{self.layer}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """A site from its text, from a TransformerLens hook name, or from `hidden_states[i]`."""
        if text in ("embed", "unembed"):
            return cls(cast(Kind, text))
        if text.startswith("module:") and len(text) > len("module:"):
            return cls("module", path=text.removeprefix("module:"))
        if match := _LAYERED.fullmatch(text):
            return cls(cast(Kind, match[1]), int(match[2]))
        if match := _LOGITS.fullmatch(text):
            return cls("logits", path=match[1])
        if match := _MASS.fullmatch(text):
            return cls("mass", int(match[2]), _span(match[1], text))
        return cls._parse_foreign(text)

    @classmethod
    def _parse_foreign(cls, text: str) -> Self:
        for pattern, kind in _FOREIGN:
            if match := pattern.fullmatch(text):
                return cls(cast(Kind, kind), int(match[1]))
        if text in ("hook_embed", "blocks.0.hook_resid_pre", "hidden_states[0]"):
            return cls("embed")
        if match := re.fullmatch(r"blocks\.(\d+)\.hook_resid_pre", text):
            return cls("resid", int(match[1]) - 1)
        if match := re.fullmatch(r"hidden_states\[(\d+)\]", text):
            return cls("resid", int(match[1]) - 1)
        raise ValueError(
            f"unknown site {text!r}: write embed, resid.L, attn.L, mlp.L, unembed, mass.<span>.L, logits.<set> or "
            "module:<path> (L counts blocks from 0)"
        )


def known_sites(names: Iterable[str]) -> Iterator[Site]:
    """The sites among the names of files or folders; a later garner may have kinds that this one does not know."""
    for name in names:
        with suppress(ValueError):
            yield Site.parse(name)


def stored_dtype(site: Site, dtype: DtypeName) -> DtypeName:
    """What a site is stored as in a cache of `dtype`: scalars are few, and bfloat16 would leave nothing of logits."""
    return "float32" if site.kind in ("mass", "logits") else dtype


def _span(name: str, text: str) -> str:
    if name not in SPANS:
        raise ValueError(f"unknown span {name!r} in site {text!r}: {suggestion(name, SPANS)}")
    return name
