"""A step in words: what is there of it, and what is left."""

from pipeline.plan import CacheStep, JobStep, Step
from storage.dtype import stored, stored_width
from storage.site import Site, stored_dtype


def describe(step: Step) -> tuple[str, str, str]:
    """(state, name, what is there and what is left), a line of `garner plan`."""
    state = "done" if step.done else "to do"
    if isinstance(step, JobStep):
        return state, step.name, f"{step.kind} -> {step.artifact}"
    return state, step.name, f"{step.facts.folder}: {_progress(step)}"


def _progress(step: CacheStep) -> str:
    facts = step.facts
    parts = [f"{len(facts.widths)} sites x {step.rows:,} rows"] if step.rows else []
    parts += [f"{site} lacks {lacking} units" for site, lacking in step.lacking.items() if lacking]
    if facts.new_files:
        parts.append(f"{len(facts.new_files)} new files, {_about(step)}")
    if any(segment.rows is None for segment in facts.segments):
        parts.append("a segment whose tokens are not indexed yet")
    if facts.gone:
        parts.append(f"{facts.gone} files are gone from the corpus; their rows stay")
    if facts.changed:
        parts.append(f"{len(facts.changed)} files changed since they were taken; what was taken stays")
    return "; ".join(parts)


def _about(step: CacheStep) -> str:
    """Size and memory before the tokens are counted."""
    dtype = step.facts.record.identity.dtype
    widths = ((Site.parse(site), d) for site, d in step.facts.widths.items())
    row = sum(
        stored_width(one, d) * stored(one).itemsize for one, d in ((stored_dtype(site, dtype), d) for site, d in widths)
    )
    return f"about {step.estimate:,} rows, {step.estimate * row / 2**20:,.0f} MiB; {step.facts.memory}"
