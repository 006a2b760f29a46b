"""The dictionary itself, and how its features go together, on held-out rows: each number beside a random dictionary's.

B rows of a batch, F features, E dimensions of a target.
"""

from collections.abc import Sequence

from torch import Tensor

from jobs.core.context import Metric
from jobs.sae.coder import Coder
from jobs.sae.codes import Codes
from jobs.sae.dictionaries import random_atoms
from jobs.sae.stability import Stability, stability, without_mean
from jobs.sae.structure import CoFiring, Nearest, coherence, ranks, zero_atoms


class Anatomy:
    """Takes held-out rows batch by batch; atoms are as training sees them, and rows as these are to rebuild them."""

    def __init__(self, coder: Coder, seed: int) -> None:
        self._atoms_FE = coder.atoms_FD
        width, d = self._atoms_FE.shape
        self._random_FE = random_atoms(width, d, seed).to(self._atoms_FE)
        self._near, self._near_random = Nearest(self._atoms_FE), Nearest(self._random_FE)
        self._together = CoFiring(len(self._atoms_FE))

    def add(self, wanted_BE: Tensor, codes: Codes) -> None:
        """Count a batch in."""
        self._near.add(wanted_BE)
        self._near_random.add(wanted_BE)
        self._together.add(codes)

    def metrics(self) -> tuple[Metric, ...]:
        """All of them, with the null of the same number of random unit atoms."""
        own, random = ranks(self._atoms_FE), ranks(self._random_FE)
        coverage = self._together.pair_coverage()
        cancel, by_chance = (self._together.interference(atoms) for atoms in (self._atoms_FE, self._random_FE))
        numbers = [
            (
                "ood",
                self._near.ood,
                self._near_random.ood,
                "1 - mean over atoms of the largest cosine with a held-out row",
            ),
            (
                "stable_rank",
                own.stable,
                random.stable,
                "|D|_F^2 / |D|_2^2: a direction that all atoms share makes it 1",
            ),
            ("effective_rank", own.effective, random.effective, "exp of the entropy of D's singular values"),
            ("coherence", coherence(self._atoms_FE), coherence(self._random_FE), "largest |cosine| of two atoms"),
            (
                "pair_coverage",
                coverage.value,
                coverage.null,
                f"share of the F^2 pairs of features that fire together in some of {coverage.n} rows; null: if they "
                "fired as often, but independently",
            ),
            (
                "interference",
                cancel.unit,
                by_chance.unit,
                "spectral norm per row of what features take from each other, |relu(-(Z'Z) * (DD'))|_2 / n, unit atoms",
            ),
        ]
        return tuple(Metric(name=name, value=value, null=null, about=about) for name, value, null, about in numbers)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a reader must know of them."""
        empty = zero_atoms(self._atoms_FE)
        lost = f"{len(empty)} atoms have length zero and no direction; the first is atom {empty[0]}." if empty else ""
        return (lost,) if lost else ()


def compared(
    final: Sequence[Tensor], initial: Sequence[Tensor], points: Tensor | None, seed: int
) -> tuple[Stability, Stability]:
    """The stability of twins, [F, E] each, plain and with the mean atom taken off."""
    plain = stability(final, initial, points, seed=seed)
    about_mean = stability(
        [without_mean(one) for one in final],
        [without_mean(one) for one in initial],
        None if points is None else without_mean(points),
        seed=seed,
    )
    return plain, about_mean


def stability_metrics(plain: Stability, about_mean: Stability) -> tuple[Metric, ...]:
    """The ends, the starts, and what training added: none of them alone says that runs agree."""
    what = f"mean cosine of atoms matched one to one, over pairs of {plain.runs} runs"
    drawn = "" if plain.drawn is None else f"; dictionaries of random candidates or rows: {plain.drawn:.3f}"
    return (
        Metric(
            name="stability",
            value=plain.final,
            null=plain.null,
            about=f"{what}, after training; null: random atoms{drawn}",
        ),
        Metric(name="stability_init", value=plain.initial, null=plain.null, about=f"{what}, before training"),
        Metric(name="stabilisation", value=plain.stabilisation, null=0.0, about="stability - stability_init"),
        Metric(
            name="stability_centred",
            value=about_mean.final,
            null=about_mean.null,
            about=f"{what}, about the mean atom; before training: {about_mean.initial:.3f}",
        ),
    )
