"""What the Ray pool costs per unit, with units that do nothing: `python -m benchmarks.pool`."""

import argparse
import time
from dataclasses import dataclass

from benchmarks.timing import own_memory
from workers.groups import Group
from workers.pool import Place
from workers.ray_environment import decide


@dataclass(frozen=True)
class Overhead:
    """What a map of so many units took."""

    units: int
    seconds: float
    cpu: float
    """Seconds of CPU of the driver."""
    before: float
    """MiB of memory of the driver, with its workers at work and the first units done."""
    peak: float
    after: float

    def __str__(self) -> str:
        return (
            f"{self.units:,} units: {1e3 * self.seconds / self.units:.2f} ms wall and "
            f"{1e3 * self.cpu / self.units:.3f} ms driver CPU per unit; driver memory {self.before:.0f} MiB before, "
            f"{self.peak:.0f} at most, {self.after:.0f} after"
        )


class Sleeper:
    """Sleeps, which takes no CPU from the driver beside it."""

    def __init__(self, place: Place) -> None:
        pass

    def __call__(self, seconds: float) -> int:
        time.sleep(seconds)
        return 0


def overhead(units: int, workers: int, seconds: float = 0.0, warm: int = 500) -> Overhead:
    """Of a map over `units` units, counted from the end of the first `warm`: starting workers is not the question."""
    from workers.ray_pool import RayPool

    receipts = RayPool("local", [Group(workers=workers)]).map(Sleeper, [seconds] * (units + warm))
    for _ in range(warm):
        next(receipts)
    before = peak = own_memory("VmRSS")
    started, cpu = time.monotonic(), time.process_time()
    for number, _ in enumerate(receipts):
        if number % 1000 == 0:
            peak = max(peak, own_memory("VmRSS"))
    after = own_memory("VmRSS")
    return Overhead(
        units=units,
        seconds=time.monotonic() - started,
        cpu=time.process_time() - cpu,
        before=before,
        peak=max(peak, after),
        after=after,
    )


def main() -> None:
    """Print one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--sleep", type=float, default=0.0, help="seconds that a unit takes")
    arguments = parser.parse_args()
    decide("local")
    print(overhead(arguments.tasks, arguments.workers, arguments.sleep))


if __name__ == "__main__":
    main()
