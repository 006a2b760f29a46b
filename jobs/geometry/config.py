"""What a `geometry` step is asked for."""

from typing import Annotated

from msgspec import Meta

from jobs.geometry.points import Points, TokenMeans
from jobs.geometry.space import Dimension, Local, Metric
from storage.site import Site
from storage.value import Value


class Side(Value):
    """One site of one cache."""

    cache: str
    """Which cache to read."""
    site: Site
    """Where in the model."""


class Config(Value):
    """The geometry of one site, and its agreement with a second one."""

    cache: str
    """Which cache to read."""
    site: Site
    """Where in the model."""
    against: Side | None = None
    """A second cache and site to compare with; points are matched by token (its id where both caches have one
    tokenizer, else its string), document or place."""
    points: Points = TokenMeans()
    """What a point is: `token_means`, `document_means` or `rows`."""
    n_points: Annotated[int, Meta(ge=3)] = 20_000
    """Points drawn from those there are; all their states are held in memory."""
    skip: Annotated[int, Meta(ge=0)] = 1
    """Leave out rows at the first so many positions of a sequence: there the norm of a causal model is an outlier."""
    k: Annotated[int, Meta(ge=2)] = 10
    """Nearest neighbours that rebuild a point (LLE), and that two spaces are asked to share."""
    ks: tuple[Annotated[int, Meta(ge=2)], ...] = (5, 20)
    """Further numbers of neighbours at which two spaces are compared; none are taken where one space is studied."""
    metric: Metric = "cosine"
    """What is near: by `cosine`, or by `euclidean` distance, where points of small norm are near to everyone.
    Weights and dimensions are of the points as they are."""
    reg: Annotated[float, Meta(gt=0)] = 1e-3
    """Ridge of the LLE weights, as a share of the trace of each neighbourhood's Gram matrix."""
    dimension: Dimension = Dimension()
    """How the intrinsic dimension is measured."""
    permutations: Annotated[int, Meta(ge=20)] = 20
    """Permutations of the second cache's points that make the null."""
    bootstraps: Annotated[int, Meta(ge=100)] = 1000
    """Draws of the points that make the interval."""
    seed: int = 0
    """Of the points, the permutations, the draws and the Gaussian."""

    def __post_init__(self) -> None:
        for name, wanted in (("k", self.k), ("dimension.k", self.dimension.k), *(("ks", k) for k in self.local.ks)):
            if wanted >= self.n_points:
                raise ValueError(f"{name} is {wanted} but n_points is {self.n_points}: a point has n_points - 1 others")
        if self.against is not None and (self.against.cache, self.against.site) == (self.cache, self.site):
            raise ValueError(
                f"against is {self.cache} at {self.site}, as cache and site are: compare two different ones"
            )

    @property
    def sides(self) -> tuple[Side, ...]:
        """The one or two sites that are read."""
        first = Side(cache=self.cache, site=self.site)
        return (first,) if self.against is None else (first, self.against)

    @property
    def local(self) -> Local:
        """How neighbourhoods are taken and rebuilt."""
        ks = () if self.against is None else tuple(k for k in sorted(set(self.ks)) if k != self.k)
        return Local(k=self.k, metric=self.metric, reg=self.reg, dimension=self.dimension, ks=ks)
