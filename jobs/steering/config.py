"""What a `steering` step is asked for."""

from typing import Annotated

from msgspec import Meta

from jobs.contrast.config import Method
from storage.site import Site
from storage.value import Value


class All(Value, tag_field="kind", tag="all"):
    """The vector is added at every token, those of the prompt and those that follow."""


class Last(Value, tag_field="kind", tag="last"):
    """It is added at the last token of the prompt and at those that follow."""


class Named(Value, tag_field="kind", tag="named"):
    """Answers by name; each has to be one token of the vocabulary, with the space before it if it has one."""

    positive: tuple[str, ...]
    negative: tuple[str, ...]


class Typical(Value, tag_field="kind", tag="typical"):
    """The tokens that tell the sides apart best in the documents that vectors were fitted on."""

    n: Annotated[int, Meta(ge=1)] = 8
    """Of each side, by the z-score of their log-odds ratio (Monroe et al. 2008)."""


class Transfer(Value):
    """A vector of another model, mapped into this one."""

    vectors: str
    """The `contrast` job of the source model."""
    site: Site
    """Where in the source its vector is taken; sites at equal relative depth are a start."""
    map: str
    """The `emb2emb` job from the source's vocabulary to this model's."""
    kinds: tuple[str, ...] = ("least-squares",)
    """Which of its maps; the first one carries the controls, too."""


class Config(Value):
    """Vectors added to the states of a live model, and what that does to what it says next."""

    cache: str
    """Texts that vectors were fitted on; prompts are beginnings of its held-out documents, read by its model."""
    vocabulary: str
    """Vocabulary cache of the same model: it names answers."""
    vectors: str
    """The `contrast` job of this model: the native vector, and the sides of the label."""
    site: Site
    """Where vectors are added."""
    method: Method = "mean_difference"
    """Which of the vectors at that site, here and in the source."""
    transfer: Transfer | None = None
    """Also a vector of another model."""
    others: tuple[str, ...] = ()
    """`contrast` jobs of other behaviours as controls: of the source model where there is a transfer, else of this."""
    alphas: tuple[float, ...] = (-4, -2, -1, -0.5, 0, 0.5, 1, 2, 4)
    """Strengths, in units of the native vector's norm."""
    positions: All | Last = All()
    """At which tokens."""
    answers: Named | Typical = Typical()
    """Which next tokens speak for either side."""
    n_prompts: Annotated[int, Meta(ge=8)] = 64
    """Held-out documents of both sides that are gone on with, at most."""
    prompt_tokens: Annotated[int, Meta(ge=1)] = 16
    """The beginning of a document that is the prompt; shorter documents are left out."""
    new_tokens: Annotated[int, Meta(ge=1)] = 16
    """Tokens that fluency is measured on."""
    temperature: Annotated[float, Meta(ge=0)] = 0.0
    """Of the new text; 0 takes the likeliest token."""
    random: Annotated[int, Meta(ge=2)] = 20
    """Random vectors of the native norm."""
    last: Site | None = None
    """The last block's site. With it, effects are also worked out from the cache alone: exactly if vectors are added
    there, as their direct effect elsewhere. Both caches must have `unembed`."""
    seed: int = 0

    def __post_init__(self) -> None:
        if 1 not in self.alphas or len(set(self.alphas)) < len(self.alphas):
            raise ValueError(f"alphas wants 1, at which arms are compared, and each once, found {list(self.alphas)}")
        if isinstance(self.answers, Named) and not (self.answers.positive and self.answers.negative):
            raise ValueError("answers wants at least one token for each side")
        if self.transfer is not None and not self.transfer.kinds:
            raise ValueError("transfer.kinds wants at least one map")

    @property
    def strengths(self) -> tuple[float, ...]:
        """In rising order, none among them."""
        return tuple(sorted({0.0, *self.alphas}))
