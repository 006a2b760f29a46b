"""A study from its rows to its artifact; studies that want the same batches are trained by one read of the cache.

F features, E dimensions of a target, P rows of the held-out probe.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from safetensors.numpy import load as load_arrays
from torch import Tensor

from jobs.core.context import Context, Report
from jobs.core.tensors import as_tensor
from jobs.sae.anatomy import compared
from jobs.sae.coder import Coder
from jobs.sae.config import Config
from jobs.sae.effects import ablation_table, effects, losses_of
from jobs.sae.foreign import foreign
from jobs.sae.logit_effects import require_unembedding
from jobs.sae.measure import measure
from jobs.sae.recovered import Losses
from jobs.sae.report import leave, report
from jobs.sae.resume import Resume
from jobs.sae.rows import Rows, split_rows
from jobs.sae.stability import Stability
from jobs.sae.start import rebuilt_space, start
from jobs.sae.train import Training, train
from storage.artifact import Artifact
from storage.runs import Progress
from storage.shuffle import Position
from storage.value import convert

_TOLD_EVERY = 5.0
"""Seconds."""
_PROBE_ROWS = 2048
"""Held-out rows that the course of training is followed on, at most."""


@dataclass(frozen=True)
class Study:
    """One artifact in the making: its coder, and the twins that started from other seeds."""

    config: Config
    ctx: Context
    coder: Coder
    trainings: tuple[Training, ...]
    """The coder's own first; none of a foreign one."""
    first_atoms: tuple[Tensor, ...]
    """Of each training before its first step: [F, E] each."""
    losses: Losses | None
    """Where loss recovered comes from, if it is asked for."""


def run_all(configs: Sequence[Config], contexts: Sequence[Context]) -> list[Report]:
    """Train, measure and keep several studies that read the same rows in the same order."""
    rows = split_rows(configs[0], contexts[0])
    studies = [_begin(config, ctx, rows) for config, ctx in zip(configs, contexts, strict=True)]
    if trained := [one for one in studies if one.trainings]:
        _train(trained, rows)
    return [_end(one, rows) for one in studies]


def _train(studies: Sequence[Study], rows: Rows) -> None:
    """The studies' own coders by one read; then their first twins, which see the rows in another order; and so on."""
    config = studies[0].config
    resume = Resume([one.trainings for one in studies], [one.ctx.checkpoints for one in studies])
    first, position = resume.position()
    telling = Telling(studies)

    def after(trainings: Sequence[Training]) -> None:
        resume.after(trainings)
        telling.after()

    for lap in range(first, max(len(one.trainings) for one in studies)):
        order = rows.order(config.seed + lap, config.epochs, position if lap == first else Position())
        resume.follow(lap, order)
        train([one.trainings[lap] for one in studies if lap < len(one.trainings)], map(rows.sides, order), after)


class Telling:
    """Says how far the studies are, every few seconds."""

    def __init__(self, studies: Sequence[Study]) -> None:
        self._studies = studies
        self._began = self._said = time.monotonic()
        self._first = [sum(training.seen for training in study.trainings) for study in studies]

    def after(self) -> None:
        """Behind every batch."""
        now = time.monotonic()
        if now - self._said < _TOLD_EVERY:
            return
        self._said = now
        for study, first in zip(self._studies, self._first, strict=True):
            seen = sum(training.seen for training in study.trainings) - first
            note = next((str(one.history[-1]) for one in reversed(study.trainings) if one.history), "")
            study.ctx.tell(
                Progress(
                    step="training",
                    done=seen,
                    total=sum(training.n_rows for training in study.trainings) - first,
                    unit="rows",
                    tokens_per_second=seen / (now - self._began),
                    seconds=now - self._began,
                    note=note,
                )
            )


def _begin(config: Config, ctx: Context, rows: Rows) -> Study:
    if config.unembed:
        out = config.target.cache if config.target and config.target.cache else config.cache  # whose rows atoms make
        require_unembedding(ctx.cache(config.unembed), ctx.cache(out), len(rows.target_mean_E))
    losses = losses_of(config, ctx, ctx.device)
    if config.foreign:
        return Study(config, ctx, foreign(config, rows.acts.d).to(ctx.device), (), (), losses)
    n_rows = config.epochs * int(rows.training_N.sum())
    probe = rows.at(rows.held_H[np.linspace(0, len(rows.held_H) - 1, min(_PROBE_ROWS, len(rows.held_H))).astype(int)])
    coders = [_first(config, ctx, rows, config.seed + n).to(ctx.device) for n in range(1 + config.twins)]
    first_atoms = tuple(coder.atoms_FD.clone() for coder in coders)
    trainings = tuple(Training(coder, config, n_rows, probe) for coder in coders)
    return Study(config, ctx, coders[0], trainings, first_atoms, losses)


def _first(config: Config, ctx: Context, rows: Rows, seed: int) -> Coder:
    """The coder as training finds it: as the last artifact left it, or untrained."""
    if ctx.previous is not None and seed == config.seed:
        return load(ctx.previous)
    points_NE = _candidates(config, rows, seed)
    return start(config, rows.inputs, rows.targets, points_NE, seed)


def _candidates(config: Config, rows: Rows, seed: int) -> Tensor | None:
    """What atoms start from or are made of, of the training rows as atoms are to rebuild them."""
    candidates = config.dictionary.candidates
    if candidates is None:
        return None
    seed = seed if candidates.seed is None else candidates.seed  # runs that share it see the same rows, too
    shift_E, scale_E = (as_tensor(one, rows.device) for one in rebuilt_space(config, rows.targets or rows.inputs))
    targets = ((batch.y_BE - shift_E) * scale_E for batch in rows.shuffled(seed, 1))
    return candidates.draw(targets, seed)


def _end(study: Study, rows: Rows) -> Report:
    config, ctx, coder = study.config, study.ctx, study.coder.eval()
    found = measure(config, coder, rows)
    ctx.save("weights", coder.arrays())
    lost = study.losses and effects(config, ctx, coder, rows, study.losses, found.tally.fired_F.numpy())
    if lost and (table := ablation_table(lost)) is not None:
        ctx.table("ablation", table)
    portraits = leave(config, ctx, rows, coder, study.trainings[0].history if study.trainings else [], found)
    previous = "" if ctx.previous is None else ctx.previous.folder.name
    return report(config, rows, found, portraits, lost, _twins(study, rows), previous)


def _twins(study: Study, rows: Rows) -> tuple[Stability, ...]:
    """How far the coder and its twins agree, plain and about the mean atom; nothing if it has none."""
    if len(study.trainings) < 2:
        return ()
    coder = study.coder
    points_NE = coder.own_dictionary["points"] if "points" in coder.own_dictionary else _some(coder, rows)
    last = [one.coder.atoms_FD.cpu() for one in study.trainings]
    return compared(last, [one.cpu() for one in study.first_atoms], points_NE.cpu(), study.config.seed)


def _some(coder: Coder, rows: Rows) -> Tensor:
    """Training rows as the atoms rebuild them, twice as many as there are atoms, or all."""
    wanted, n = list[Tensor](), 2 * len(coder.atoms_FD)
    for batch in rows.shuffled(0, 1):
        wanted.append(coder.wanted(batch.x_BD, batch.y_BE).detach())
        if sum(map(len, wanted)) >= n:
            break
    return torch.cat(wanted)[:n]


def load(artifact: Artifact) -> Coder:
    """The coder of a finished `sae` artifact; it encodes to the same codes bit for bit."""
    config = convert(artifact.record.config, Config, f"artifact {artifact.folder.name}")
    return Coder(load_arrays(artifact.read("weights.safetensors")), config.activation, config.dictionary)
