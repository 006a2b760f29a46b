"""Print the table of docs/benchmarks.md: `make bench`."""

import logging
import os
import platform
import sys
from collections.abc import Callable

from benchmarks import files, harvest, remote
from benchmarks.timing import Result, table


def main() -> None:
    """Run every benchmark, one after the other."""
    logging.basicConfig(level=logging.WARNING)
    measures: tuple[Callable[[], Result | list[Result] | None], ...] = (
        harvest.speed, files.writing, files.shuffled, files.contiguous, remote.shuffled, harvest.first_batch,
        harvest.memory, files.memory,
    )  # fmt: skip
    results: list[Result] = []
    for measure in measures:
        print(f"measuring {measure.__module__}.{measure.__name__} ...", file=sys.stderr, flush=True)
        found = measure()
        if found is None:
            print("not measured: Ceph's gateway is not installed (docs/storage.md)", file=sys.stderr)
        results += found if isinstance(found, list) else [found] if found else []
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}; load {load}\n")
    print(table(results))


if __name__ == "__main__":
    main()
