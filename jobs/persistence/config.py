"""What a `persistence` step is asked for."""

from typing import Annotated

from msgspec import Meta

from storage.site import Site
from storage.value import Value


class Config(Value):
    """Sites of one model against sites of another."""

    source: str
    """Cache of texts of the one model."""
    target: str
    """Cache of texts of the other; the same texts are not needed, the same tokens are."""
    source_sites: tuple[Site, ...] = ()
    """None means every site of hidden states."""
    target_sites: tuple[Site, ...] = ()
    """None means every site of hidden states."""
    n_points: Annotated[int, Meta(ge=20)] = 5_000
    """Tokens drawn from those that both caches have; their mean states are held in memory for all sites."""
    min_count: Annotated[int, Meta(ge=1)] = 5
    """Tokens that occur less often in either cache are left out."""
    skip: Annotated[int, Meta(ge=0)] = 1
    """Leave out rows at the first so many positions of a sequence."""
    k: Annotated[int, Meta(ge=1)] = 10
    """Nearest neighbours that two sites are asked to share."""
    top: Annotated[int, Meta(ge=1)] = 3
    """Principal components that the last control removes."""
    held_out: Annotated[float, Meta(gt=0, lt=1)] = 0.3
    """Share of the tokens, by a hash, that a rotation is judged on."""
    permutations: Annotated[int, Meta(ge=5)] = 20
    """Permutations of the target's tokens that make the null."""
    parts: tuple[str, ...] = ()
    """Other `persistence` jobs of the recipe, over the same caches with sites of their own, whose maps are put together
    instead of measuring: they run beside each other."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.parts and (self.source_sites or self.target_sites):
            raise ValueError("parts are put together as they are: leave out source_sites and target_sites")

    @property
    def sides(self) -> tuple[tuple[str, tuple[Site, ...]], ...]:
        """Cache and sites of either side."""
        return (self.source, self.source_sites), (self.target, self.target_sites)
