"""What a `steering` job says it found."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from jobs.contrast.vectors import Vectors
from jobs.core.context import Metric, Report
from jobs.steering.arms import Arm
from jobs.steering.config import All, Config
from jobs.steering.prompts import Answers, Prompts
from jobs.steering.sweep import Line, at


def report(
    config: Config, native: Vectors, asked: Prompts, spoken: Answers, arms: Sequence[Arm], lines: Sequence[Line]
) -> Report:
    """The native vector first, then what was carried over, then the controls."""
    own = at(lines, "native")
    random = [line.shift for line in lines if line.group == "random" and line.alpha == 1]
    headline = (
        f"{native.config.positive} at {config.site}: one native norm moves the log-odds by {own.shift:+.2f} nats "
        f"(random {np.mean(random):+.2f}, sd {np.std(random):.2f})"
    )
    if config.transfer is not None:
        kind = config.transfer.kinds[0]
        carried, permuted = (at(lines, name).shift / own.shift for name in (kind, "permuted map"))
        headline += (
            f"; the vector of {config.transfer.vectors}, mapped by {kind} to the same norm, does {carried:.0%} of that "
            f"(permuted map {permuted:.0%})"
        )
    metrics = [*_native(lines, own, random), *_others(arms, lines, own, random), *_cached(lines)]
    return Report(headline=headline, metrics=tuple(metrics), notes=tuple(_notes(config, asked, spoken, lines)))


def _native(lines: Sequence[Line], own: Line, random: Sequence[float]) -> Iterator[Metric]:
    clean = at(lines, "native", 0.0)
    yield Metric(
        name="native shift",
        value=own.shift,
        null=float(np.mean(random)),
        about=f"of the log-odds of the answers, nats; null: {len(random)} random vectors of the norm, sd "
        f"{np.std(random):.2f}",
    )
    yield Metric(
        name="native off target",
        value=own.off_target,
        null=float(np.mean([line.off_target for line in lines if line.group == "random" and line.alpha == 1])),
        about="KL divergence of all other next tokens from the unsteered model's, nats; null: random vectors",
    )
    yield from _fluency("native fluency", own, clean)


def _fluency(name: str, line: Line, clean: Line) -> Iterator[Metric]:
    if line.nll is not None:
        about = "-log p per token of the steered text under the unsteered model, nats; null: of its own text"
        yield Metric(name=name, value=line.nll, null=clean.nll, about=about)


def _others(arms: Sequence[Arm], lines: Sequence[Line], own: Line, random: Sequence[float]) -> Iterator[Metric]:
    native_T, null = arms[0].vector_T, float(np.mean(np.abs(random)) / abs(own.shift))
    for arm in arms[1:]:
        if arm.group == "random":
            continue
        line = at(lines, arm.name)
        yield Metric(
            name=f"{arm.name} share",
            value=line.shift / own.shift,
            null=null,
            about="of the native vector's shift; null: mean size of random vectors' shifts",
        )
        yield Metric(
            name=f"{arm.name} cosine",
            value=float(torch.cosine_similarity(arm.vector_T, native_T, dim=0)),
            null=0.0,
            about="with the native vector",
        )
        if not arm.matched:
            ratio = float(arm.vector_T.norm() / native_T.norm())
            yield Metric(name=f"{arm.name} norm", value=ratio, about="over the native norm, as the map leaves it")
        if arm.group == "transfer" and arm.matched:
            yield from _fluency(f"{arm.name} fluency", line, at(lines, arm.name, 0.0))


def _cached(lines: Sequence[Line]) -> Iterator[Metric]:
    stored = [line for line in lines if line.evaluated == "cache"]
    if stored:
        gap = max(abs(line.shift - at(lines, line.arm, line.alpha).shift) for line in stored)
        yield Metric(
            name="cache against live",
            value=gap,
            about="largest difference of a shift worked out from the cache alone from the live model's, nats",
        )


def _notes(config: Config, asked: Prompts, spoken: Answers, lines: Sequence[Line]) -> Iterator[str]:
    yield asked.note
    yield f"Answers for the one side: {spoken.names[0]}; for the other: {spoken.names[1]}."
    where = "at all tokens" if isinstance(config.positions, All) else "from the prompt's last token on"
    yield f"Vectors are added {where}; strength 1 is the native vector's norm, and mapped ones are also scaled to it."
    rising = [line.log_odds for line in lines if (line.arm, line.evaluated) == ("native", "live")]
    steps = np.diff(rising)
    yield (
        "The native vector's log-odds rise with every step of its strength."
        if bool((steps > 0).all())
        else f"The native vector's log-odds do not rise with its strength: {int((steps <= 0).sum())} steps fall."
    )
    if any(line.evaluated == "direct effect" for line in lines):
        yield (
            "Lines marked direct effect are U norm(h + alpha v) of cached states: what the vector adds to the logits "
            "by itself, not what the model makes of it further up."
        )
