"""What an `sae` step is asked for."""

from typing import Annotated

from msgspec import Meta

from jobs.sae.activations import Activation, TopK
from jobs.sae.dictionaries import Dictionary, UnitNorm
from jobs.sae.losses import AuxK
from storage.site import Site
from storage.value import Value

Share = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=1)]


class Config(Value):
    """A sparse autoencoder of one site of one cache."""

    cache: str
    """Which cache to read."""
    site: Site
    """Where in the model."""
    width: Count = 4096
    """Features in the dictionary."""
    activation: Activation = TopK()
    """Which features of a row speak: `topk` or `relu`."""
    dictionary: Dictionary = UnitNorm()
    """What the atoms may be: `unit_norm` or `free`."""
    aux: AuxK = AuxK()
    """How dead features are revived."""
    epochs: Count = 8
    """Passes over the training rows."""
    batch: Count = 2048
    """Rows per step."""
    lr: Annotated[float, Meta(gt=0)] = 4e-3
    """Highest learning rate, of Adam."""
    warmup: Share = 0.05
    """Share of training in which the learning rate rises from 0."""
    decay: Share = 0.3
    """Share of training, at its end, in which the learning rate falls to 0."""
    held_out: Annotated[float, Meta(gt=0, lt=1)] = 0.1
    """Share of the documents that training never sees and every metric is measured on."""
    n_features: Count = 64
    """Features drawn at random for the table of examples."""
    n_examples: Annotated[int, Meta(ge=2)] = 20
    """Strongest tokens kept of each feature."""
    seed: int = 0
    """Of the split, the first weights, the order of rows and the sample of features."""

    def __post_init__(self) -> None:
        if isinstance(self.activation, TopK) and self.activation.k > self.width:
            raise ValueError(
                f"activation.k is {self.activation.k} but width is {self.width}: a row's k features are among width"
            )
        if self.warmup + self.decay > 1:
            raise ValueError(
                f"warmup {self.warmup} and decay {self.decay} are shares of one training: make their sum at most 1"
            )
