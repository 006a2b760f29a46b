"""What an artifact is addressed by, and which artifacts follow each other: one job on caches that grow."""

from collections.abc import Mapping, Sequence
from typing import Any

import jobs
from storage.artifact import Input, Record
from storage.value import identity


def artifact_id(
    kind: str,
    config: Mapping[str, Any],
    inputs: Mapping[str, Input],
    refit: jobs.Refit,
    previous: str,
    digests: Sequence[str] = (),
    artifacts: Mapping[str, str] = {},
) -> str:
    """Hash of the kind, the configuration, the caches, what it went on from, the contents of files it reads, and the
    artifacts it stands on; what a cache or an artifact is called in the recipe is only an alias."""
    seen = sorted((one.cache, one.first, one.segments, sorted(one.sites)) for one in inputs.values())
    more: dict[str, Any] = {} if refit == "all" else {"refit": refit, "previous": previous}
    more |= {"files": list(digests)} if digests else {}
    more |= {"artifacts": sorted(artifacts.values())} if artifacts else {}
    return identity({"kind": kind, "config": _unaliased(config, inputs, artifacts), "inputs": seen, **more})


def series(kind: str, config: Mapping[str, Any], inputs: Mapping[str, Input]) -> str:
    """What artifacts have in common of which one follows the other: all but the segments.

    Other jobs that they stand on count by their names in the recipe, for what those leave changes with the segments.
    """
    seen = sorted((one.cache, sorted(one.sites)) for one in inputs.values())
    return identity({"kind": kind, "config": _unaliased(config, inputs, {}), "caches": seen})


def of(record: Record) -> str:
    """The series of an artifact."""
    return series(record.kind, record.config, record.inputs)


def folder(record: Record) -> str:
    """Name of the artifact's folder."""
    return f"{record.kind}-{record.id}"


def last(
    kind: str, config: Mapping[str, Any], inputs: Mapping[str, Input], candidates: Sequence[Record]
) -> Record | None:
    """Of the artifacts of the same job on the same one cache that were made by going on, the one that has seen most."""
    (wanted,) = inputs.values()
    sought = series(kind, config, inputs)
    found = [
        (seen.segments, record.id, record)
        for record in candidates
        if of(record) == sought
        and record.id
        == artifact_id(
            record.kind, record.config, record.inputs, "continue", record.previous, artifacts=record.artifacts
        )
        for seen in record.inputs.values()
        if seen.segments <= wanted.segments
    ]
    return max(found, default=(0, "", None))[2]


def _unaliased(config: Mapping[str, Any], inputs: Mapping[str, Input], artifacts: Mapping[str, str]) -> Any:
    return _renamed(config, {name: one.cache for name, one in inputs.items()} | dict(artifacts))


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _renamed(one, names) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_renamed(one, names) for one in value]
    return names.get(value, value) if isinstance(value, str) else value
