"""Maps over a cluster of several nodes on this machine, with GPUs that are only said to be there; prints what was seen.

A script, for a driver joins one cluster: tests/workers/test_ray_pool.py runs it.
"""

import os
import sys
import time
from collections import Counter
from functools import partial

import msgspec

from workers.ray_environment import decide


def tell(share, place):
    """Says where it stands: the node, the GPUs it sees, its place."""
    import ray

    node = ray.get_runtime_context().get_node_id()
    labels = ray.get_runtime_context().get_node_labels()
    time.sleep(share)

    def work(task):
        time.sleep(task)
        seen = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        return {"node": node, "pid": os.getpid(), "seen": seen, "labels": labels, "place": place}

    return work


def main():
    decide("local")
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "object_store_memory": 80_000_000, "include_dashboard": False},
    )
    try:
        said = scenes(cluster, ray)
    finally:
        ray.shutdown()
        cluster.shutdown()
    sys.stdout.write(msgspec.json.encode(said).decode() + "\n")


def scenes(cluster, ray):
    from workers.crew import LIMITS
    from workers.groups import Group
    from workers.ray_pool import RayPool

    def add(**node):
        return cluster.add_node(object_store_memory=80_000_000, **node)

    limits = msgspec.structs.replace(LIMITS, look=1, rest=0.5)
    add(num_cpus=4, num_gpus=2, resources={"accelerator_type:A100": 1})
    spot = add(num_cpus=1, labels={"market": "spot"})
    cluster.wait_for_nodes()

    def run(groups, tasks, share=0.0):
        pool = RayPool(cluster.address, groups, limits)
        return list(pool.map(partial(tell, share), tasks))

    two = [
        Group(workers=1, gpus=1, accelerator="A100", batch_tokens=4096),
        Group(workers=1, labels={"market": "spot"}),
    ]
    seen = run(two, [0.3] * 12)
    kinds = {
        f"{'spot' if one['labels'].get('market') else 'A100'} {one['place'].device} {one['place'].batch_tokens}"
        for one in seen
    }
    said = {
        "groups": {"here": sorted(k for k in kinds if "A100" in k), "there": sorted(k for k in kinds if "spot" in k)}
    }
    seen = run([Group(gpus=0.5)], [0.3] * 24)
    said["shares"] = [sorted({one["seen"] for one in seen}), len({one["pid"] for one in seen})]
    said["spread"] = sorted({one["seen"] for one in run([Group(gpus=2)], [0.0] * 2)})

    grown = RayPool(cluster.address, [Group(labels={"market": "spot"})], limits)
    receipts = grown.map(partial(tell, 0.0), [0.5] * 60)
    seen = [next(receipts)]
    add(num_cpus=1, labels={"market": "spot"})
    seen += receipts
    said["grown"] = {"receipts": len(seen), "nodes": len({one["node"] for one in seen}), "losses": len(grown.losses)}

    killed = RayPool(cluster.address, [Group(labels={"market": "spot"})], limits)
    receipts = killed.map(lambda place: lambda task: (time.sleep(0.3), task)[1], list(range(40)))
    seen = [next(receipts) for _ in range(8)]
    cluster.remove_node(spot, allow_graceful=False)
    seen += list(receipts)
    counts = Counter(seen)
    said["killed"] = {
        "receipts": len(seen),
        "unique": set(counts.values()) == {1} and len(counts) == 40,
        "reasons": sorted({loss.reason for loss in killed.losses}),
    }
    return said


if __name__ == "__main__":
    main()
