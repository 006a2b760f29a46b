"""`make bench-sae`: a training step of garner and of other systems in turn, and their errors after the same rows."""

import argparse
import os
import platform
from collections.abc import Sequence
from statistics import median

from benchmarks.sae.environment import System, systems
from benchmarks.sae.side_by_side import Course, compare
from benchmarks.sae.task import Kind, Task

_BATCH = 2048
_KINDS: tuple[Kind, ...] = ("topk", "batch_topk", "relu", "jump_relu")
_RATES = (None, 1e-3, 4e-3)


def main(arguments: Sequence[str] | None = None) -> None:
    """A small shape with every kind and several learning rates, then steps of a large one."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sae", description=__doc__)
    parser.add_argument("--kinds", nargs="+", choices=_KINDS, default=_KINDS, help="of coder (all)")
    parser.add_argument("--small", default="128:1024:16", help="d:width:k trained to the end (%(default)s)")
    parser.add_argument("--steps", type=int, default=200, help="of the small shape (%(default)s)")
    parser.add_argument("--large", default="768:8192:32", help="d:width:k of which steps are timed (%(default)s)")
    parser.add_argument("--large-steps", type=int, default=10, help="0: none (%(default)s)")
    parser.add_argument("--threads", nargs="+", type=int, default=[1], help="of each system, in turn (%(default)s)")
    given = parser.parse_args(arguments)
    before, everyone = os.getloadavg()[0], systems()
    for kind in given.kinds:
        some = [one for one in everyone if kind in one.kinds]
        _trained(some, kind, given.small, given.steps, given.threads[0])
        for threads in given.threads:
            if given.large_steps:
                _timed(some, kind, given.large, given.large_steps, threads)
        for threads in given.threads[1:]:
            _timed(some, kind, given.small, given.large_steps or 10, threads)
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}; load {before:.1f} to "
        f"{os.getloadavg()[0]:.1f}; float32, batches of {_BATCH} rows"
    )


def _trained(some: Sequence[System], kind: Kind, shape: str, steps: int, threads: int) -> None:
    """Milliseconds a step over all learning rates, and the lowest error of them."""
    d, width, k = map(int, shape.split(":"))
    courses = compare(some, _task(kind, width, k, steps, threads), d, _RATES)
    print(f"### {kind}, d = {d}, width = {width}, k = {k}: {steps} steps, {_threads(threads)}\n")
    print("| | ms a step | garner is faster by | FVU, own rate | L0 | FVU, best rate | L0 | rate |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for one in some:
        own, best = courses[one.name][0], min(courses[one.name], key=lambda course: course.fvu)
        rate = "own" if best.lr is None else f"{best.lr:g}"
        print(
            f"| {one.title} | {_speed(courses, one.name)} | {own.fvu:.3f} | {own.l0:.1f} | {best.fvu:.3f} | "
            f"{best.l0:.1f} | {rate} |"
        )
    print(flush=True)


def _timed(some: Sequence[System], kind: Kind, shape: str, steps: int, threads: int) -> None:
    d, width, k = map(int, shape.split(":"))
    courses = compare(some, _task(kind, width, k, steps, threads), d, [None])
    print(f"### {kind}, d = {d}, width = {width}, k = {k}: the first {steps} steps, {_threads(threads)}\n")
    print("| | ms a step | garner is faster by |\n| --- | ---: | ---: |")
    for one in some:
        print(f"| {one.title} | {_speed(courses, one.name)} |")
    print(flush=True)


def _task(kind: Kind, width: int, k: int, steps: int, threads: int) -> Task:
    return Task(rows="", kind=kind, width=width, k=k, steps=steps, batch=_BATCH, threads=threads, lr=None)


def _threads(threads: int) -> str:
    return "one thread" if threads == 1 else f"{threads} threads"


def _speed(courses: dict[str, list[Course]], name: str) -> str:
    """Median milliseconds, and the median over turns of how many times as long as garner's."""
    mine, ours = ([s for course in courses[one] for s in course.seconds] for one in (name, "garner"))
    ratio = median(theirs / our for theirs, our in zip(mine, ours, strict=True))
    return f"{1000 * median(mine):.0f} | " + ("" if name == "garner" else f"{ratio:.1f}x")


if __name__ == "__main__":
    main()
