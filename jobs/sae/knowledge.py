"""What features know of labels and of spelling: all of it in a table, the telling numbers in the report.

N documents, E dimensions of a target.
"""

from dataclasses import dataclass

import pyarrow as pa
import torch

from jobs.core.context import Metric
from jobs.sae import absorption, classes, concepts, density, probing, spurious
from jobs.sae.coder import Coder
from jobs.sae.features import DocumentMeans
from jobs.sae.metrics import Tally
from jobs.sae.pooled import StateMeans, left_out, pooled
from jobs.sae.rows import Rows
from jobs.sae.spelling import LETTERS, find_words, first_letters

_TELLING = (".k1", ".codes", ".states", ".n10", ".full", "dense", "rare", ".scaled", ".one_feature")
"""Ends of the names that the report shows; the table has all."""


@dataclass(frozen=True)
class Knowledge:
    """Everything measured, and what a reader must know of it."""

    metrics: tuple[Metric, ...]
    notes: tuple[str, ...]

    @property
    def telling(self) -> tuple[Metric, ...]:
        """The numbers for the report."""
        return tuple(metric for metric in self.metrics if metric.name.endswith(_TELLING))

    def table(self) -> pa.Table:
        """A line per number."""
        lines = [{"name": one.name, "value": one.value, "null": one.null, "about": one.about} for one in self.metrics]
        types = {"name": pa.string(), "value": pa.float64(), "null": pa.float64(), "about": pa.string()}
        return pa.Table.from_pylist(lines, pa.schema(types))


@torch.no_grad()
def knowledge(coder: Coder, rows: Rows, tally: Tally, states: StateMeans, codes: DocumentMeans, seed: int) -> Knowledge:
    """Of held-out documents and rows, on the CPU; `states` and `codes` have seen them all."""
    atoms_FE = (coder.atoms_FD / coder.scale_E).cpu()
    documents = pooled(states, codes, rows.tokens, seed)
    probed = probing.sparse_probing(documents)
    perturbed, alone = concepts.tpp(documents, atoms_FE)
    removed, unpaired = spurious.scr(documents, atoms_FE)
    known = classes.classes(documents, coder.atoms_FD.cpu(), coder.shift_E.cpu(), coder.scale_E.cpu())
    fired = density.density(tally.density, tally.n)
    numbers = [
        *density.metrics(fired),
        *probing.metrics(probed),
        *concepts.metrics(perturbed),
        *spurious.metrics(removed),
        *classes.metrics(known),
    ]
    notes = [
        *density.notes(fired),
        *left_out(documents, rows.tokens.label_names),
        *probing.notes(probed),
        *concepts.notes(perturbed, alone),
        *spurious.notes(removed, unpaired),
    ]
    if rows.tokens.has_text and coder.W_skip_DE is None:
        letters = _letters(coder, rows, atoms_FE, seed)
        numbers += absorption.metrics(letters, "first_letter")
        notes += absorption.notes(letters, LETTERS)
    return Knowledge(tuple(numbers), tuple(notes))


def _letters(coder: Coder, rows: Rows, atoms_FE: torch.Tensor, seed: int) -> tuple[absorption.Absorption, ...]:
    """Absorption of the first letters of words."""
    words = find_words(rows.tokens, rows.held_H, seed)
    if not words.words:
        return ()
    offset_E = (coder.shift_E + coder.b_dec_E.detach() / coder.scale_E).cpu()
    parts = (words.rows_N[at : at + rows.batch] for at in range(0, len(words.rows_N), rows.batch))
    batches = ((batch.y_BE.cpu(), coder.encode(batch.x_BD)) for batch in map(rows.at, parts))
    return first_letters(words, batches, atoms_FE, offset_E, seed)
