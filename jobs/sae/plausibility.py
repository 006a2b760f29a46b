"""Plausibility: is there an atom for every class that a classifier of the same hidden states knows?

C classes, F atoms, D dimensions, B rows of a batch.

The value is (1/C) sum_i max_j cos(v_i, D_j) with v_i the classifier's rows, and no absolute value (Fel et al. 2025,
2502.12892). Four readings of v_i are given, since each answers another question:
- `raw`: the rows as they are.
- `scaled`: sigma * v_i. A classifier of x reads x = mu + sigma * z with this vector where atoms and codes live in z.
- `centred`, `scaled_centred`: after the mean over classes is taken off, which no softmax can see.
"""

from collections.abc import Iterable, Mapping

from torch import Tensor

from jobs.sae.dictionaries import random_atoms
from jobs.sae.structure import Nearest

Readings = dict[str, float]


def directions(classes_CD: Tensor, sigma_D: Tensor | None = None) -> dict[str, Tensor]:
    """What the atoms are compared with, by the name of the reading; `sigma_D` is what the rows were divided by."""
    named = {"raw": classes_CD, "centred": classes_CD - classes_CD.mean(0)}
    if sigma_D is not None:
        named |= {"scaled": sigma_D * classes_CD, "scaled_centred": sigma_D * named["centred"]}
    return named


def plausibility(atoms_FD: Tensor, classes: Mapping[str, Tensor]) -> Readings:
    """Mean over the classes of the largest cosine with any atom, for each reading."""
    return _streamed([atoms_FD], classes)


def compared(
    atoms_FD: Tensor, classes: Mapping[str, Tensor], batches_BD: Iterable[Tensor], seed: int
) -> dict[str, Readings]:
    """Plausibility of the atoms and of what it is to be read against.

    `random`: as many atoms in uniformly random directions. `rows`: every row as an atom, which no dictionary of means
    of rows can be expected to pass; `batches_BD` are rows in the space of the atoms.
    """
    width, d = atoms_FD.shape
    return {
        "atoms": plausibility(atoms_FD, classes),
        "random": plausibility(random_atoms(width, d, seed), classes),
        "rows": _streamed(batches_BD, classes),
    }


def _streamed(batches_BD: Iterable[Tensor], classes: Mapping[str, Tensor]) -> Readings:
    nearest = {name: Nearest(classes_CD) for name, classes_CD in classes.items()}
    for x_BD in batches_BD:
        for near in nearest.values():
            near.add(x_BD)
    return {name: float(near.cosine_F.mean()) for name, near in nearest.items()}
