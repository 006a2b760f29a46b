"""`make archetypal`: archetypal SAEs beside the others, and the table of docs/sae.md.

`python -m examples.archetypal` trains the digits' model where it is not there, runs examples/archetypal.toml and prints
a line for every study.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from examples import digits
from examples.real import ROOT
from pipeline.__main__ import main as garner
from storage import Lake

RECIPE = ROOT / "examples" / "archetypal.toml"
LAKE = ROOT / "build" / "archetypal" / "lake"
COLUMNS = {
    "R2": ("fvu", lambda value: f"{1 - value:.3f}"),
    "L0": ("l0", lambda value: f"{value:.1f}"),
    "dead": ("dead", lambda value: f"{value:.1%}"),
    "stability": ("stability", lambda value: f"{value:.3f}"),
    "at the start": ("stability_init", lambda value: f"{value:.3f}"),
    "added": ("stabilisation", lambda value: f"{value:+.3f}"),
    "about the mean": ("stability_centred", lambda value: f"{value:.3f}"),
    "OOD": ("ood", lambda value: f"{value:.3f}"),
    "stable rank": ("stable_rank", lambda value: f"{value:.1f}"),
    "eff. rank": ("effective_rank", lambda value: f"{value:.0f}"),
    "coherence": ("coherence", lambda value: f"{value:.2f}"),
    "pairs": ("pair_coverage", lambda value: f"{value:.3f}"),
    "interference": ("interference", lambda value: f"{value:.3f}"),
}
"""Heading, the metric, and how it is shown."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, run, print; the exit code is garner's."""
    more = list(sys.argv[1:] if arguments is None else arguments)
    digits.main([])
    code = garner(["run", str(RECIPE), *more])
    if code == 0:
        print("\n".join(table(Lake(str(LAKE)))))
    return code


def table(lake: Lake) -> Iterator[str]:
    """Markdown: the studies of each cache, and last the nulls of its last one."""
    records = [lake.artifact(name).record for name in lake.artifacts()]
    for cache in dict.fromkeys(record.config["cache"] for record in records):
        mine = sorted((one for one in records if one.config["cache"] == cache), key=_place)
        yield f"\n**{cache}**, `{mine[0].config['site']}`\n"
        yield f"| | {' | '.join(COLUMNS)} |"
        yield "|" + " --- |" * (1 + len(COLUMNS))
        for record in mine:
            yield _line(_name(record.config), _metrics(record.report, "value"))
        yield _line("_null_", _metrics(mine[-1].report, "null"))


def _metrics(report: Mapping[str, Any], what: str) -> dict[str, float]:
    return {one["name"]: one[what] for one in report["metrics"] if one[what] is not None}


def _line(name: str, metrics: Mapping[str, float]) -> str:
    cells = [show(metrics[metric]) if metric in metrics else "" for metric, show in COLUMNS.values()]
    return f"| {name} | {' | '.join(cells)} |"


def _place(record: Any) -> tuple[bool, bool, str]:
    return record.kind == "sae", record.config.get("activation", {}).get("kind") == "topk", _name(record.config)


def _name(config: Mapping[str, Any]) -> str:
    """What a reader calls the study."""
    if "method" in config:
        return {"semi_nmf": "Semi-NMF", "convex_nmf": "Convex-NMF", "kmeans": "K-means"}[config["method"]["kind"]]
    activation, dictionary = config["activation"]["kind"], config["dictionary"]
    candidates = dictionary["candidates"]
    if dictionary["kind"] != "archetypal":
        return {"relu": "ReLU", "jump_relu": "JumpReLU"}.get(activation, "TopK") + (
            ", from K-means" if candidates else ""
        )
    shared = ", shared C" if candidates["seed"] is not None else ""
    start = ", random W" if dictionary["start_from"] == "random" else ""
    return ("RA-SAE" if dictionary["delta"] else "A-SAE") + shared + start


if __name__ == "__main__":
    sys.exit(main())
