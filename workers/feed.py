"""What a harvester feeds its model: batches of sequences as tensors of the CPU, and which of their tokens are rows.

B: sequences of a batch, T: tokens of its longest, N: rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, assert_never

import numpy as np
import torch
from torch import Tensor

from storage.errors import RunError
from storage.index import TokenIndex
from storage.segment import Segment
from storage.sequences import Sequence as TokenSequence
from storage.site import FIRST, Site
from workers import images
from workers.batches import kept, padded
from workers.mass import indicators

Rows = Literal["tokens", "patches", "entries"]
"""What a row stands for: a token of a text, a patch of an image, an entry of the vocabulary."""


@dataclass(frozen=True)
class Feed:
    """One batch, ready for the model."""

    batch: Sequence[TokenSequence]
    inputs: dict[str, Tensor]
    """As `LM.read` takes them; `input_ids` [N] where rows are entries of the vocabulary."""
    kept_BT: Tensor | None = None
    """Which tokens are rows; None where the inputs are not text."""
    spans: dict[str, Tensor] = field(default_factory=dict)
    """Which tokens each span of a mass site holds, bool [B, T]."""


class Feeder:
    """Makes feeds of a segment's batches."""

    def __init__(self, segment: Segment, rows: Rows, processor: Any) -> None:
        """`processor` is the model's own for images, None where rows are not patches."""
        self._segment, self._rows, self._processor = segment, rows, processor

    def __call__(self, batch: Sequence[TokenSequence], sites: Sequence[Site]) -> Feed:
        """The feed of one batch, for these sites."""
        match self._rows:
            case "entries":
                ids_N = torch.from_numpy(np.concatenate([sequence.input_ids for sequence in batch])).long()
                return Feed(batch, {"input_ids": ids_N})
            case "tokens":
                return self._text(batch, {site.path for site in sites if site.kind == "mass"})
            case "patches":
                pixels_BCHW = images.pixels(self._processor, [sequence.image or b"" for sequence in batch])
                return Feed(batch, {"pixel_values": pixels_BCHW})
            case _:
                assert_never(self._rows)

    def _text(self, batch: Sequence[TokenSequence], spans: set[str]) -> Feed:
        ids_BT, mask_BT = padded(batch, torch.tensor([len(sequence.input_ids) for sequence in batch]))
        self._check_roles(batch, spans - {FIRST})
        return Feed(
            batch,
            {"input_ids": ids_BT, "attention_mask": mask_BT},
            kept(batch, mask_BT),
            indicators(batch, spans, ids_BT.shape[1]),
        )

    def _check_roles(self, batch: Sequence[TokenSequence], roles: set[str]) -> None:
        """`RunError` at the first sequence of which it is not known which tokens are of which role."""
        for sequence in batch if roles else ():
            if sequence.roles is None:
                raise RunError(
                    f"mass of {', '.join(sorted(roles))}, document {document(self._segment, sequence.start)!r}: what "
                    "the chat template writes does not tell where its messages stand; leave the document out, or the "
                    "mass of roles"
                )


def document(segment: Segment, row: int) -> str:
    """Id of the document of a row of the segment."""
    tokens = TokenIndex([segment])
    return str(tokens.document_ids[tokens.documents(np.array([row]))[0]])
