"""From a recipe's `[pool]` to the pool."""

import logging

import msgspec

from pipeline.recipe import PoolTable
from storage.errors import InputError
from workers.groups import Group
from workers.pool import LocalPool, Place, Pool, device_of, has_cuda
from workers.ray_environment import decide

log = logging.getLogger(__name__)


def make_pool(table: PoolTable, lake: str) -> Pool:
    """The pool a recipe asks for; Ray is imported only if it is."""
    if table.kind == "local":
        return _local(table)
    if lake.startswith("memory://"):
        raise InputError(f'lake = "{lake}" lives in one process; set [pool] kind = "local", or use a folder')
    decide(table.address)
    from workers.crew import LIMITS
    from workers.ray_pool import RayPool

    limits = msgspec.structs.replace(LIMITS, timeout=table.timeout)
    return RayPool(table.address, _groups(table), limits, table.cpu_fallback)


def _local(table: PoolTable) -> Pool:
    if table.gpus and table.cpu_fallback and not has_cuda():
        log.warning("torch finds no GPU in this process: running on CPU, far slower")
        return LocalPool()
    return LocalPool(Place(device=device_of(table.gpus)))


def _groups(table: PoolTable) -> tuple[Group, ...]:
    if not table.groups:
        return (Group(workers=table.workers, gpus=table.gpus),)
    return tuple(msgspec.convert(msgspec.structs.asdict(group), Group) for group in table.groups)
