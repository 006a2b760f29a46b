"""What the job `alignment` is asked to do."""

from jobs.alignment.maps import LeastSquares, Map, Procrustes, Ridge, map_name
from storage.site import Site
from storage.value import Value


class Config(Value):
    """Maps between the hidden states of two caches over the same documents."""

    source: str
    """The cache that maps start from, by its name in the recipe."""
    target: str
    """The cache that maps lead to; the same one to map between its own sites."""
    source_sites: tuple[Site, ...] = ()
    """Sites of the source cache; none means all it has."""
    target_sites: tuple[Site, ...] = ()
    """Sites of the target cache; none means all it has."""
    maps: tuple[Map, ...] = (LeastSquares(), Ridge(), Procrustes())
    """Kinds of map, at most one of each; every one is fitted for every pair of sites."""
    cca_ridge: float = 1e-4
    """Added to both covariances before whitening, in units of the mean variance of a dimension."""
    skip: int = 1
    """Leave out rows at the first so many positions of a sequence: there the norm of a causal model is an outlier."""
    max_rows: int = 4_000_000
    """Draw documents until their source rows come to this many."""
    null_rows: int = 32_768
    """Training rows drawn for the permuted null; held in memory once, at the target's width."""
    retrieval_rows: int = 4_096
    """Test rows drawn for retrieval and cosine: each has to find its own partner among this many."""
    validation: float = 0.15
    """Share of documents that choose the ridge penalty, the baseline's smoothing, and the pair shown in depth."""
    test: float = 0.25
    """Share of documents that everything reported is measured on."""
    seed: int = 0
    """Of the split, the draws and the permutation."""

    def __post_init__(self) -> None:
        names = [map_name(kind) for kind in self.maps]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"maps wants at least one map and one of each kind at most, but lists {names}")
        if min(self.validation, self.test) <= 0 or self.validation + self.test >= 1:
            raise ValueError(
                f"validation = {self.validation} and test = {self.test} must be above 0 and leave documents to train on"
            )
        if min(self.max_rows, self.null_rows, self.retrieval_rows) < 1 or self.skip < 0 or self.cca_ridge < 0:
            raise ValueError(
                "max_rows, null_rows and retrieval_rows must be above 0, skip and cca_ridge not below it; found "
                f"{self.max_rows}, {self.null_rows}, {self.retrieval_rows}, {self.skip} and {self.cca_ridge}"
            )
        if self.source == self.target and self.source_sites == self.target_sites and len(self.source_sites) == 1:
            raise ValueError(f"source and target are both {self.source} at {self.source_sites[0]}: nothing to align")
