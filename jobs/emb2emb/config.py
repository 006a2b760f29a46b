"""What an `emb2emb` step is asked for."""

from typing import Annotated

from msgspec import Meta

from jobs.alignment.maps import LeastSquares, Procrustes, Ridge
from jobs.emb2emb.maps import Logit, LowRank, Map, map_name
from storage.site import Site
from storage.value import Value


class Hidden(Value, tag_field="kind", tag="hidden"):
    """Least squares on hidden states of the same text instead of table rows, about their means: what a map that was
    given the states themselves can do."""

    source: str
    """Cache of texts of the source model."""
    target: str
    """Cache of the same texts of the target model."""
    source_site: Site
    target_site: Site
    skip: Annotated[int, Meta(ge=0)] = 1
    """Leave out rows at the first so many positions of a sequence."""
    max_rows: Annotated[int, Meta(ge=64)] = 200_000
    """Matched rows that are read, by whole documents."""


class Norm(Value):
    """Where a model's final norm can be read off: its last block's site, in a cache that has `unembed` as well."""

    cache: str
    site: Site


class Fold(Value):
    """Whose final norms to fold into the tables: each column of a table times the norm's gain there."""

    source: Norm
    target: Norm


AnyMap = LeastSquares | Ridge | Procrustes | LowRank | Logit | Hidden


def name_of(kind: AnyMap) -> str:
    """How recipes, tables and files call a map."""
    return "hidden" if isinstance(kind, Hidden) else map_name(kind)


class Config(Value):
    """Linear maps from one model's space to another's, fitted on the rows of the tokens that both know."""

    source: str
    """Vocabulary cache of the model that vectors come from."""
    target: str
    """Vocabulary cache of the model that they go to."""
    site: Site = Site("unembed")
    """Which table of both."""
    maps: tuple[AnyMap, ...] = (LeastSquares(), Procrustes(), Logit())
    """At most one of each kind."""
    n_tokens: Annotated[int, Meta(ge=20)] = 100_000
    """Tokens drawn from those that both vocabularies have; their rows are held in memory as float32."""
    least: Annotated[int, Meta(ge=20)] = 100
    """Fewer shared tokens than this are refused."""
    held_out: Annotated[float, Meta(gt=0, lt=1)] = 0.25
    """Share of the tokens, by a hash of their bytes, that every map is judged on and none is fitted to."""
    validation: Annotated[float, Meta(gt=0, lt=1)] = 0.15
    """Share that chooses a penalty or a rank; with the choice made, the map is fitted to these tokens too."""
    center: bool = False
    """Take both tables about their means before fitting. A vector is a difference and is mapped by the matrix alone."""
    fold: Fold | None = None
    """Fold the gains of the final norms into the tables; without it they are as they are stored."""
    retrieval_rows: Annotated[int, Meta(ge=10)] = 20_000
    """Held-out tokens among which each has to find its own."""
    permutations: Annotated[int, Meta(ge=1)] = 5
    """Fits to permuted target rows that make the null; the first is kept as `permuted.safetensors`."""
    seed: int = 0

    def __post_init__(self) -> None:
        names = [name_of(kind) for kind in self.maps]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"maps wants at least one map and one of each kind at most, but lists {names}")
        if self.held_out + self.validation >= 1:
            raise ValueError(
                f"held_out = {self.held_out} and validation = {self.validation} leave no tokens to fit on: lower one"
            )
        if self.source == self.target:
            raise ValueError(f"source and target are both {self.source}: name the vocabularies of two models")

    @property
    def of_tables(self) -> tuple[Map, ...]:
        """The maps that are fitted to the tables."""
        return tuple(kind for kind in self.maps if not isinstance(kind, Hidden))

    @property
    def hidden(self) -> Hidden | None:
        """The one that is fitted to hidden states, if it is asked for."""
        return next((kind for kind in self.maps if isinstance(kind, Hidden)), None)
