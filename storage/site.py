"""Where in a model a hidden state is read: `Site("resid", 6)`, written `resid.6`."""

import re
from functools import total_ordering
from typing import Final, Literal, Self, cast

Kind = Literal["embed", "resid", "attn", "mlp", "unembed", "module"]

_STAGE: dict[Kind, int] = {"embed": 0, "attn": 1, "mlp": 1, "resid": 1, "unembed": 2, "module": 3}
_WITHIN: dict[Kind, int] = {"attn": 0, "mlp": 1, "resid": 2}
_LAYERED = re.compile(r"(resid|attn|mlp)\.(\d+)")
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
    `module` is the output of the module at `path`. A plain class, so that recipes and records show it as one string.
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
            f"unknown site {text!r}: write embed, resid.L, attn.L, mlp.L, unembed or module:<path> "
            "(L counts blocks from 0)"
        )
