"""A cluster of several nodes on this machine that all see the same network, by Ray's own `Cluster`."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.cluster.ray_hosts import HEALTH
from workers.ray_environment import decide

_STORE = 100_000_000


class Nodes:
    """A head without room for workers, and nodes with room for one each."""

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def add(self) -> Any:
        """One more node."""
        return self._cluster.add_node(num_cpus=1, object_store_memory=_STORE)


@contextmanager
def nodes(count: int) -> Iterator[Nodes]:
    """So many nodes and a head; ended with all that were added."""
    os.environ.setdefault("RAY_memory_monitor_refresh_ms", "0")  # a busy neighbour must not get our actors killed
    decide("local")
    from ray.cluster_utils import Cluster

    head = {
        "num_cpus": 0,
        "object_store_memory": _STORE,
        "include_dashboard": False,
        "_system_config": {f"health_check_{name}": value for name, value in HEALTH.items()},
    }
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        made = Nodes(cluster)
        for _ in range(count):
            made.add()
        yield made
    finally:
        cluster.shutdown()


def raylet(node: Any) -> int:
    """Process id of what makes it a node; its workers are this one's children."""
    (info,) = node.all_processes["raylet"]
    return int(info.process.pid)


def workers(node: Any) -> set[int]:
    """Process ids of all workers there, idle ones too."""
    threads = Path(f"/proc/{raylet(node)}/task").glob("*/children")
    return {int(child) for children in threads for child in children.read_text().split()}
