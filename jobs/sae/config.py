"""What an `sae` step is asked for."""

from typing import Annotated, Literal

from msgspec import Meta

from jobs.sae.activations import Activation, TopK
from jobs.sae.dictionaries import Archetypal, Dictionary, Free, UnitNorm
from jobs.sae.jump import JumpRelu, L0Target
from jobs.sae.losses import AuxK
from jobs.sae.pursuit import MatchingPursuit, OrthogonalPursuit
from storage.site import Site
from storage.value import Value

Share = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=1)]


class Source(Value):
    """Rows beside those of `site`, of the same tokens."""

    site: Site
    """Where in the model."""
    cache: str = ""
    """Of which cache; "" means the config's own."""


class Config(Value):
    """A sparse autoencoder of one site of one cache; a transcoder with `target`, a crosscoder with `beside`."""

    cache: str
    """Which cache to read."""
    site: Site
    """Where in the model."""
    target: Source | None = None
    """What the codes of `site` are to predict; none means the rows themselves."""
    skip: bool = False
    """Whether a linear map from input to target is learnt beside the codes of a transcoder."""
    beside: tuple[Source, ...] = ()
    """Further sources of the same tokens, read and rebuilt by the same codes (a crosscoder)."""
    normalise: Literal["isotropic", "centre", "standardise", "none"] = "isotropic"
    """What training sees: one scale for all dimensions, with or without the mean, or unit variance in each."""
    width: Count = 4096
    """Features in the dictionary."""
    activation: Activation = TopK()
    """Which features of a row speak."""
    dictionary: Dictionary = UnitNorm()
    """What the atoms may be."""
    encoder: Literal["linear", "tied"] = "linear"
    """Whether features hear through weights of their own or through their atoms."""
    foreign: str = ""
    """Folder of a coder of SAELens or dictionary_learning, which is measured as it is: nothing is trained."""
    prefixes: tuple[Count, ...] = ()
    """Matryoshka: the first so many features must rebuild a row by themselves, too (Bussmann et al. 2025)."""
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
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the matrix products in training on a GPU; weights and sums are float32 throughout."""
    held_out: Annotated[float, Meta(gt=0, lt=1)] = 0.1
    """Share of the documents that training never sees and every metric is measured on."""
    unembed: str = ""
    """A vocabulary cache of the model with `unembed`, for the tokens that features promote; "" means none."""
    loss: Literal["none", "cache", "model"] = "none"
    """Where loss recovered comes from: the cache and `unembed` (for the last sites alone), or the live model."""
    twins: Annotated[int, Meta(ge=0)] = 0
    """Further coders from other seeds, on the same rows in an order of their own: which atoms come back?"""
    n_features: Count = 64
    """Features drawn at random for the table of examples."""
    n_examples: Annotated[int, Meta(ge=2)] = 20
    """Strongest tokens kept of each feature."""
    seed: int = 0
    """Of the split, the first weights, the order of rows and the sample of features."""

    def __post_init__(self) -> None:
        _check_codes(self)
        _check_atoms(self)
        _check_sides(self)
        if self.warmup + self.decay > 1:
            raise ValueError(
                f"warmup {self.warmup} and decay {self.decay} are shares of one training: make their sum at most 1"
            )


def _check_codes(config: Config) -> None:
    activation, k = config.activation, getattr(config.activation, "k", 0)
    if k > config.width:
        raise ValueError(f"activation.k is {k} but width is {config.width}: a row's k features are among width")
    wanted = activation.sparsity if isinstance(activation, JumpRelu) else None
    if isinstance(wanted, L0Target) and wanted.l0 > config.width:
        raise ValueError(f"activation.sparsity.l0 is {wanted.l0} but width is {config.width}: lower it")
    if isinstance(activation, MatchingPursuit | OrthogonalPursuit) and config.encoder != "tied":
        raise ValueError('a pursuit hears through the atoms themselves: set encoder = "tied"')
    if list(config.prefixes) != sorted({*config.prefixes}) or max(config.prefixes, default=0) >= config.width:
        raise ValueError(f"prefixes {list(config.prefixes)} must rise and stay below width {config.width}")


def _check_atoms(config: Config) -> None:
    dictionary, candidates = config.dictionary, config.dictionary.candidates
    if candidates is not None and config.width > candidates.n:
        raise ValueError(
            f"width is {config.width} but dictionary.candidates.n is {candidates.n}: every atom starts at a candidate "
            "of its own, so ask for at least as many candidates"
        )
    if not isinstance(dictionary, Archetypal):
        return
    if dictionary.support is not None and dictionary.support > dictionary.candidates.n:
        raise ValueError(f"dictionary.support is {dictionary.support} of {dictionary.candidates.n} candidates")
    each = dictionary.support or dictionary.candidates.n
    if config.width * each > _MOST_WEIGHTS:
        raise ValueError(
            f"{config.width} atoms of {each} candidates are {config.width * each:,} weights, "
            f"four times that with Adam: set dictionary.support to at most {_MOST_WEIGHTS // config.width}"
        )


_MOST_WEIGHTS = 1 << 28
"""Of an archetypal dictionary: 4 GiB with gradients and Adam's moments."""


def _check_sides(config: Config) -> None:
    if config.foreign and (config.dictionary != Free() or config.twins or config.target or config.beside):
        raise ValueError(
            'foreign is a coder of one site, measured as it is: set dictionary = { kind = "free" }, no twins'
        )
    if config.unembed and config.beside:
        raise ValueError("unembed turns rows of one site into logits, beside joins several: drop one of them")
    if config.loss == "cache" and not config.unembed:
        raise ValueError('loss = "cache" wants unembed, a vocabulary cache of the model')
    if config.loss != "none" and (config.target is not None or config.beside):
        raise ValueError('loss recovered is of a coder of one site: drop target and beside, or set loss = "none"')
    if config.target is not None and config.beside:
        raise ValueError("target makes a transcoder, beside a crosscoder: set one of them")
    if config.skip and config.target is None:
        raise ValueError("skip is a map from input to target: set target, too")
    if config.encoder == "tied" and config.target is not None:
        raise ValueError('encoder = "tied" hears through the atoms, which lie in the target\'s space: use "linear"')
