"""The vectors that a `contrast` job left, as other jobs read them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.numpy import load as load_arrays
from torch import Tensor

from jobs.contrast.config import Config, Method
from storage.artifact import Artifact
from storage.errors import InputError
from storage.site import Site
from storage.value import convert

_KIND = "contrast"


@dataclass(frozen=True)
class Vectors:
    """Vectors by site and method, and what they were fitted on."""

    id: str
    config: Config
    cache: str
    """Folder of the cache that they were fitted on."""
    _held: Mapping[str, Any]

    def at(self, site: Site, method: Method) -> Tensor:
        """float32 [D]; `InputError` where there is none, naming those there are."""
        if (key := f"{site}/{method}") not in self._held:
            raise InputError(f"artifact {self.id} holds no vector {key}; it holds {', '.join(sorted(self._held))}")
        return torch.from_numpy(self._held[key])


def load(artifact: Artifact) -> Vectors:
    """All of them; `InputError` where the artifact is another job's."""
    record = artifact.record
    if record.kind != _KIND:
        raise InputError(f"artifact {record.id} is of kind {record.kind}: name a {_KIND} job")
    config = convert(record.config, Config, f"record {record.id}")
    cache = record.inputs[config.cache].cache if config.cache in record.inputs else ""
    return Vectors(record.id, config, cache, load_arrays(artifact.read("vectors.safetensors")))
