"""What a classifier of documents knows, and the dictionary: plausibility and soft identifiability of every label.

N documents to fit on, M to score, C values of a label, F features, D dimensions of a target.

A linear probe of the mean hidden state is fitted for each value of a label, on half of the held-out documents. Its
direction is a class of `plausibility`; whether a document has the value is an object of `soft_identifiability`, with
the mean codes of documents for examples.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from jobs.core.context import Metric
from jobs.sae.binary import fit_planes
from jobs.sae.identifiability import Examples, Identifiability, soft_identifiability
from jobs.sae.plausibility import Readings, compared, directions
from jobs.sae.pooled import Concept, Documents
from storage.value import Value

_READINGS = {
    "scaled": "in the space of training",
    "raw": "in stored units against atoms of training",
    "scaled_centred": "in the space of training, about the mean class",
    "centred": "about the mean class, in stored units",
}


class Known(Value):
    """One label."""

    label: str
    """Of the documents."""
    values: tuple[str, ...]
    """Those asked about."""
    plausible: dict[str, Readings]
    """Of the `atoms`, of `random` ones, and of every document as an atom (`rows`)."""
    identified: Identifiability
    """Each value by one feature and one threshold."""


def classes(documents: Documents, atoms_FD: Tensor, shift_D: Tensor, scale_D: Tensor) -> tuple[Known, ...]:
    """Of every label that has a value to ask about; atoms live where a target is (x - shift) * scale."""
    asked = ((label, documents.concepts(label)) for label in documents.labels)
    rows_MD = (documents.x_ND[documents.halves[1]] - shift_D) * scale_D
    return tuple(
        Known(
            label=label,
            values=tuple(concept.value for concept in concepts),
            plausible=compared(atoms_FD, _directions(documents, concepts, scale_D), [rows_MD], documents.seed),
            identified=_identified(documents, concepts),
        )
        for label, concepts in asked
        if concepts
    )


def _directions(documents: Documents, concepts: Sequence[Concept], scale_D: Tensor) -> dict[str, Tensor]:
    fitted_N = documents.halves[0]
    has_CN = torch.from_numpy(np.stack([concept.has_N[fitted_N] for concept in concepts]))
    planes = fit_planes(documents.x_ND[torch.from_numpy(fitted_N)], has_CN, documents.seed)
    named = directions(torch.stack([plane.w_D for plane in planes]), 1 / scale_D)
    return named if len(concepts) > 1 else {name: named[name] for name in ("raw", "scaled")}


def _identified(documents: Documents, concepts: Sequence[Concept]) -> Identifiability:
    has_NC = torch.from_numpy(np.stack([concept.has_N for concept in concepts], axis=1))
    train, test = (Examples(documents.z_NF[half], has_NC[half]) for half in documents.halves)
    return soft_identifiability(train, test, documents.seed)


def metrics(found: Iterable[Known]) -> tuple[Metric, ...]:
    """Every label's numbers."""
    return tuple(metric for one in found for metric in (*_plausible(one), *_identifiable(one)))


def _plausible(one: Known) -> list[Metric]:
    atoms, null, rows = (one.plausible[name] for name in ("atoms", "random", "rows"))
    name, about = (
        f"plausibility.{one.label}",
        "largest cosine of any atom with the probe of each value, mean over values",
    )
    found = [
        Metric(name=f"{name}.{reading}", value=value, null=null[reading], about=f"{about}, {_READINGS[reading]}")
        for reading, value in atoms.items()
    ]
    every = "the same of every scored document's mean as an atom, which means of rows can hardly pass"
    return [*found, Metric(name=f"{name}.documents", value=rows["scaled"], null=null["scaled"], about=every)]


def _identifiable(one: Known) -> list[Metric]:
    name, found = f"identifiability.{one.label}", one.identified
    about = "accuracy of one feature and one threshold for each value, mean over values"
    luck = "chosen on the documents scored, as published; null: the same for documents with each other's values"
    above = "of the way from the majority to all, (accuracy - majority) / (1 - majority)"
    return [
        Metric(
            name=f"{name}.one_feature",
            value=found.fit_on_train,
            null=found.chance,
            about=f"{about}, chosen on other documents; null: the majority; {found.corrected_train:.3f} {above}",
        ),
        Metric(
            name=f"{name}.fit_on_test",
            value=found.fit_on_test,
            null=found.null,
            about=f"{about}, {luck}; {found.corrected:.3f} {above}",
        ),
    ]
