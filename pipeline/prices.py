"""What machines and storage cost: the recipe's `[prices]`; without it plans say bytes and hours alone."""

import math
from typing import Annotated

import msgspec

from storage.value import Value

Price = Annotated[float, msgspec.Meta(ge=0)]


class PriceTable(Value):
    """`[prices]`: never part of any identity. A price that is not given counts as nothing."""

    currency: str = "$"
    """What amounts are written with."""
    gpu_hour: Price = 0.0
    """Of one GPU with the machine around it."""
    cpu_hour: Price = 0.0
    """Of one worker where there is no GPU."""
    storage_gb_month: Price = 0.0
    """Of 10^9 bytes kept for a month."""
    put_per_1000: Price = 0.0
    """Of a thousand objects written."""
    get_per_1000: Price = 0.0
    """Of a thousand objects read."""
    egress_gb: Price = 0.0
    """Of 10^9 bytes that leave the store when they are read; 0 where readers are in its region."""
    months: Price = 1.0
    """How long caches will be kept."""
    tokens_per_second: Annotated[float, msgspec.Meta(gt=0)] | None = None
    """Of one worker, where no run in the lake has measured it yet."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{name} must be a finite number, found {value}")
