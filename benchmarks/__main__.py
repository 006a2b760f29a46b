"""Print the table of docs/benchmarks.md: `make bench`."""

import logging
import os
import platform
import sys

from benchmarks import files, harvest
from benchmarks.timing import table


def main() -> None:
    """Run every benchmark, one after the other."""
    logging.basicConfig(level=logging.WARNING)
    measures = (harvest.speed, files.writing, files.reading, harvest.memory, files.memory)
    results = []
    for measure in measures:
        print(f"measuring {measure.__module__}.{measure.__name__} ...", file=sys.stderr, flush=True)
        results.append(measure())
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}; load {load}\n")
    print(table(results))


if __name__ == "__main__":
    main()
