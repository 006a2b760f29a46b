"""From a recipe's `[pool]` to the pool."""

from pipeline.recipe import PoolTable
from storage.errors import InputError
from workers.pool import LocalPool, Place, Pool
from workers.ray_environment import decide


def make_pool(table: PoolTable, lake: str) -> Pool:
    """The pool a recipe asks for; Ray is imported only if it is."""
    if table.kind == "local":
        return LocalPool(Place(device="cuda" if table.gpus else "cpu"))
    if lake.startswith("memory://"):
        raise InputError(f'lake = "{lake}" lives in one process; set [pool] kind = "local", or use a folder')
    decide(table.address)
    from workers.ray_pool import RayPool

    return RayPool(table.address, table.workers, table.gpus)
