"""Probe directions as vectors that can be added to states.

D width of the site, C classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from safetensors.numpy import load as load_arrays
from torch import Tensor

from jobs.probe.fit import SiteFit
from storage.artifact import Artifact
from storage.errors import InputError
from storage.site import Site

_KIND = "probe"


@dataclass(frozen=True)
class Vectors:
    """What a `probe` job left, by site, target and class."""

    id: str
    _held: Mapping[str, np.ndarray]

    def at(self, site: Site, target: str, value: str) -> Tensor:
        """float32 [D], pointing to documents of that class; `InputError` where there is none."""
        if (key := f"{site}/{target}/{value}") not in self._held:
            raise InputError(f"artifact {self.id} holds no vector {key}; it holds {', '.join(sorted(self._held)[:20])}")
        return torch.from_numpy(self._held[key])


def load(artifact: Artifact) -> Vectors:
    """All vectors; `InputError` where the artifact is another job's."""
    if artifact.record.kind != _KIND:
        raise InputError(f"artifact {artifact.record.id} is of kind {artifact.record.kind}: name a {_KIND} job")
    return Vectors(artifact.record.id, load_arrays(artifact.read("vectors.safetensors")))


def vectors(site: Site, fitted: SiteFit) -> dict[str, np.ndarray]:
    """`<site>/<target>/<class>`, float32 [D]: the direction of the class's weights less the mean of the others', and as
    long as the mean state of the class is away from that of all others along it."""
    found: dict[str, np.ndarray] = {}
    for problem, fit in fitted.fits:
        if problem.shuffle == 0 and problem.labels.classes:
            W_CD = fit.W_DC.T.double()
            away_CD = (W_CD - W_CD.mean(0)) * len(W_CD) / (len(W_CD) - 1)
            unit_CD = away_CD / away_CD.norm(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
            along_C1 = (unit_CD * fitted.sums.differences(problem.labels.name)).sum(1, keepdim=True)
            for value, vector_D in zip(problem.labels.classes, unit_CD * along_C1, strict=True):
                found[f"{site}/{problem.labels.name}/{value}"] = vector_D.cpu().numpy().astype(np.float32)
    return found
