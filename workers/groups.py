"""Kinds of workers, and how many of each the nodes of a cluster can hold. Knows no Ray."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from storage.errors import InputError
from storage.value import Value
from workers.pool import Place, device_of

log = logging.getLogger(__name__)

Node = Mapping[str, Any]
"""What `ray.nodes()` says of one: Alive, Resources, Labels."""


class Group(Value):
    """Workers of one kind; each takes one CPU as well."""

    workers: int = 0
    """Actors at once; 0 means as many as the cluster has room for, now and as nodes come."""
    gpus: float = 0
    """GPUs per actor: a share of one, or whole ones, over which a model of several is spread."""
    accelerator: str | None = None
    """Ray's name of the GPU type, such as A100 or L4."""
    labels: dict[str, str] = {}
    """Labels that a node must have."""
    batch_tokens: int | None = None
    """Most tokens of one forward pass here; what the work says itself if not given."""

    @property
    def place(self) -> Place:
        return Place(device=device_of(self.gpus), batch_tokens=self.batch_tokens)

    @property
    def wanted(self) -> str:
        """What a worker asks of a node, for messages."""
        parts = [f"{self.gpus:g} GPU" if self.gpus else "1 CPU", self.accelerator or ""]
        return " ".join([part for part in parts if part] + [f"{name}={value}" for name, value in self.labels.items()])


CPUS = (Group(),)


def room(nodes: Sequence[Node], groups: Sequence[Group]) -> list[int]:
    """How many workers of each group the nodes can hold, empty; earlier groups take their room first."""
    left = [dict(node["Resources"]) for node in nodes]
    return [
        sum(
            _take(resources, group, node)
            for node, resources in zip(nodes, left, strict=True)
            if node["Alive"] and _suits(node, group)
        )
        for group in groups
    ]


def targets(nodes: Sequence[Node], groups: Sequence[Group]) -> list[int]:
    """How many workers of each group to ask for: what the group says, or what there is room for.

    Where there is none at all, one is asked for: an autoscaler sees it and brings a node.
    """
    wanted = [group.workers or held for group, held in zip(groups, room(nodes, groups), strict=True)]
    return wanted if any(wanted) else [1] + [0] * (len(wanted) - 1)


def settle(groups: Sequence[Group], nodes: Sequence[Node], here: bool, cpu_fallback: bool) -> tuple[Group, ...]:
    """The groups to use where some ask for GPUs that no node has.

    On this machine (`here`) none will come, so that is refused; a cluster may bring them, so there they are waited
    for. With `cpu_fallback`, CPUs do instead.
    """
    groups = tuple(groups)
    on_gpus = [group for group in groups if group.gpus]
    if not on_gpus or any(room(nodes, on_gpus)):
        return groups
    wanted = " or ".join(group.wanted for group in on_gpus)
    found = f"{sum(node['Resources'].get('GPU', 0) for node in nodes if node['Alive']):g} GPUs in all"
    if cpu_fallback:
        log.warning("no node has %s (found %s): running on CPU, far slower", wanted, found)
        rest = tuple(group for group in groups if not group.gpus)
        return rest or (Group(workers=sum(group.workers for group in on_gpus)),)
    if here:
        raise InputError(
            f"[pool] asks for {wanted} per worker, and this machine has {found}: set gpus = 0 or cpu_fallback = true "
            "to run on CPU, or address to a cluster that has them"
        )
    return groups


def without_gpus(groups: Sequence[Group]) -> tuple[Group, ...]:
    """Where work that needs no device runs: on all CPUs, but for a limit set for workers that have CPUs only anyway."""
    return CPUS if any(group.gpus for group in groups) else tuple(groups)


def _suits(node: Node, group: Group) -> bool:
    labels = node.get("Labels", {})
    typed = group.accelerator is None or f"accelerator_type:{group.accelerator}" in node["Resources"]
    return typed and all(labels.get(name) == value for name, value in group.labels.items())


def _take(left: dict[str, float], group: Group, node: Node) -> int:
    """Workers that one node can hold of a group, taken off what it has left."""
    held = int(left.get("CPU", 0))
    if group.gpus:
        share = min(group.gpus, 1)
        held = min(held, int(left.get("GPU", 0) / max(group.gpus, 1)) * int(1 / share + 1e-6))
    if group.workers:
        held = min(held, group.workers)
    left["CPU"] = left.get("CPU", 0) - held
    left["GPU"] = left.get("GPU", 0) - held * group.gpus
    return held
