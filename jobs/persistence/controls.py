"""One site's token means as they are, about their mean, and without their widest directions.

States of a layer share a direction, and a few dimensions of huge variance, that say nothing of tokens: they alone can
make two models agree or differ (anisotropy).

N tokens, D width.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from jobs.core.linalg import unit_rows, without_widest
from jobs.core.neighbours import nearest
from jobs.persistence.cells import Control
from jobs.persistence.config import Config
from storage.site import Site


@dataclass(frozen=True)
class View:
    """The same tokens under one control."""

    x_ND: Tensor
    """float32."""
    unit_ND: Tensor
    near_NK: Tensor
    """Nearest other tokens by cosine."""


@dataclass(frozen=True)
class Controlled:
    """All controls of one site."""

    site: Site
    views: Mapping[Control, View]


def controlled(site: Site, x_ND: Tensor, config: Config) -> Controlled:
    """From the token means."""
    apart_ND = (x_ND.double() - x_ND.mean(0, dtype=torch.float64)).float()
    spaces: Mapping[Control, Tensor] = {
        "raw": x_ND,
        "centred": apart_ND,
        "without_top": without_widest(apart_ND, config.top),
    }
    return Controlled(site, {control: _view(space, config.k) for control, space in spaces.items()})


def _view(x_ND: Tensor, k: int) -> View:
    unit_ND = unit_rows(x_ND)
    return View(x_ND, unit_ND, nearest(unit_ND, k).indices_QK)
