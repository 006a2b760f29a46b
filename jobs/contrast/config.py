"""What a `contrast` step is asked for."""

from typing import Annotated, Literal

from msgspec import Meta

from jobs.probe.examples import EveryToken, MeanToken, Pooling
from storage.site import Site
from storage.value import Value

Method = Literal["mean_difference", "pca", "probe"]


class Config(Value):
    """Two sides of a label, and how the direction from one to the other is found."""

    cache: str
    """The cache to read."""
    label: str
    """The label column that tells the sides apart."""
    positive: str
    """Its value on the side that vectors point to."""
    negative: str | None = None
    """Its value on the other side; without it, all other documents that have a value."""
    sites: tuple[Site, ...] = ()
    """Where; none means every site of the cache."""
    methods: tuple[Method, ...] = ("mean_difference", "probe")
    """`mean_difference` of the sides; `pca`, the first principal component of the differences within pairs; `probe`,
    the direction of a logistic probe."""
    pair: str | None = None
    """A label column with one value for a document of each side that belong together; `pca` wants it, and pairs stay on
    one side of the split."""
    pooling: Pooling = MeanToken()
    """What an example is: the mean or last state of a document, or every token."""
    max_examples: Annotated[int, Meta(ge=100)] = 100_000
    """Examples drawn evenly at most; their states at one site are held in memory as float32."""
    validation: Annotated[float, Meta(gt=0, lt=1)] = 0.15
    """Share of documents that choose the probe's penalty and the headline."""
    test: Annotated[float, Meta(gt=0, lt=1)] = 0.25
    """Share of documents that vectors are judged on."""
    penalties: tuple[float, ...] = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
    """Candidates for the probe's penalty, in units of the mean variance of a coordinate."""
    shuffles: Annotated[int, Meta(ge=1)] = 5
    """Times that sides are exchanged at random for the null."""
    seed: int = 0
    """Of the split, the draw and the shuffles."""

    def __post_init__(self) -> None:
        if self.positive == self.negative:
            raise ValueError(f"positive and negative are both {self.positive!r}: name two values of {self.label}")
        if self.validation + self.test >= 1:
            raise ValueError(f"validation = {self.validation} and test = {self.test} leave no documents to fit on")
        if not self.methods or len(set(self.methods)) < len(self.methods):
            raise ValueError(f"methods wants at least one, each once, but lists {list(self.methods)}")
        if not self.penalties or min(self.penalties) <= 0:
            raise ValueError(f"penalties must be above 0, found {self.penalties}")
        if "pca" in self.methods and (self.pair is None or isinstance(self.pooling, EveryToken)):
            raise ValueError(
                "pca takes differences within pairs of documents: name the label column `pair` that joins them, with "
                "pooling mean_token or last_token, or leave pca out"
            )
