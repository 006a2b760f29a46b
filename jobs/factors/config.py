"""What a `factors` step is asked for."""

from typing import Annotated, Literal

from msgspec import Meta

from jobs.factors.library import Nmf
from jobs.factors.methods import Method, SemiNmf
from storage.site import Site
from storage.value import Value

Count = Annotated[int, Meta(ge=1)]


class Config(Value):
    """A classical dictionary of one site of one cache."""

    cache: str
    """Which cache to read."""
    site: Site
    """Where in the model."""
    normalise: Literal["isotropic", "centre", "standardise", "none"] = "isotropic"
    """What the fit sees, as in `sae`: one scale for all, with or without the mean, or variance 1 in each dimension."""
    width: Count = 256
    """Features in the dictionary."""
    method: Method = SemiNmf()
    """What makes the dictionary, and how rows become codes in it."""
    held_out: Annotated[float, Meta(gt=0, lt=1)] = 0.1
    """Share of the documents that no fit sees and every metric is measured on; with one seed the same as in `sae`."""
    max_rows: Annotated[int, Meta(ge=2)] = 1 << 14
    """Training rows drawn for a fit, at most: it holds them and their codes in memory."""
    twins: Annotated[int, Meta(ge=0)] = 0
    """Further fits from other seeds, each to rows drawn anew: which atoms come back?"""
    n_features: Count = 64
    """Features drawn at random for the table of examples."""
    n_examples: Annotated[int, Meta(ge=2)] = 20
    """Strongest tokens kept of each feature."""
    seed: int = 0
    """Of the split, the draw of rows, the start of the fit and the sample of features."""

    def __post_init__(self) -> None:
        keep = getattr(self.method, "keep", None)
        if keep is not None and keep > self.width:
            raise ValueError(f"method.keep is {keep} but width is {self.width}: a row's features are among width")
        if isinstance(self.method, Nmf) and self.normalise in ("centre", "standardise"):
            raise ValueError(
                f'normalise = "{self.normalise}" takes the mean off, which leaves negative entries that nmf cannot '
                'take: use "isotropic" or "none", or the method semi_nmf'
            )
