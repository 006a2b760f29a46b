"""`make geometry`: two pairs of small models, what they share, and vectors carried from one to the other.

`python -m examples.shared_geometry` trains the models of examples/topics.py where they are not there, runs
examples/shared_geometry.toml and prints what every job found.
"""

import sys
from collections.abc import Iterator, Sequence

from examples import topics
from examples.real import ROOT
from pipeline.__main__ import main as garner
from storage import Lake

RECIPE = ROOT / "examples" / "shared_geometry.toml"
LAKE = topics.BUILD / "lake"


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, run, print; the exit code is garner's."""
    more = list(sys.argv[1:] if arguments is None else arguments)
    topics.main([])
    code = garner(["run", str(RECIPE), *more])
    if code == 0:
        print("\n".join(headlines(Lake(str(LAKE)))))
    return code


def headlines(lake: Lake) -> Iterator[str]:
    """A line for every artifact, by kind."""
    records = [lake.artifact(name).record for name in lake.artifacts()]
    for record in sorted(records, key=lambda one: (one.kind, one.id)):
        yield f"{record.kind}: {record.report['headline']}"


if __name__ == "__main__":
    sys.exit(main())
