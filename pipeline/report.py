"""The report: what the artifacts of a recipe say, on one self-contained page and in a few lines of text."""

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.plan import CacheStep, JobStep, Step
from pipeline.recipe import Opened
from storage.artifact import Artifact
from storage.errors import InputError
from storage.lake import Lake
from storage.url import Folder

_SHOWN = 8
"""Metrics per job that the page shows at once; the rest are folded."""
_HEADLINES = 6
"""Metrics per job in the text summary."""


def write(opened: Opened, steps: Sequence[Step], out: str | None = None) -> str:
    """Write the page of all finished jobs among the recipe's steps; where it is."""
    from jinja2 import Environment, PackageLoader, select_autoescape

    lake = Lake(opened.lake)
    finished = frozenset(lake.artifacts())
    wanted = [step for step in steps if isinstance(step, JobStep) and step.artifact in finished]
    jobs = [_job(step, lake.artifact(step.artifact)) for step in wanted]
    if not jobs:
        raise InputError(f"no job of {opened.title} is finished: garner run it first")
    caches = [
        _cache(step, lake) for step in steps if isinstance(step, CacheStep) and step.facts.folder in lake.caches()
    ]
    environment = Environment(
        loader=PackageLoader("pipeline", "."), autoescape=select_autoescape(["jinja"], default=True)
    )
    page = environment.get_template("page.html.jinja").render(
        title=opened.title, lake=opened.lake, caches=caches, jobs=jobs
    )
    target = place(opened, out)
    Folder.at(str(Path(target).parent)).replace(Path(target).name, page.encode())
    return target


def place(opened: Opened, out: str | None) -> str:
    """Where the page goes: as asked, else into the lake if that is on this disk, else into the current folder."""
    if out is not None:
        return str(Path(out).absolute())
    lake = Folder.at(opened.lake).local
    return str((lake / "reports" if lake else Path.cwd()) / f"{opened.title}.html")


def summary(opened: Opened, steps: Sequence[Step]) -> str:
    """What a finished run found: every cache, and every job's headline and first metrics beside their nulls."""
    lake = Lake(opened.lake)
    lines: list[str] = []
    for step in steps:
        if isinstance(step, CacheStep):
            rows = lake.cache(step.facts.folder).n_rows
            lines.append(f"{step.name}: {step.facts.folder}, {rows:,} rows x {len(step.facts.widths)} sites")
            continue
        report = lake.artifact(step.artifact).record.report
        lines += ["", f"{step.name} ({step.kind}): {report['headline']}"]
        lines += [_metric_line(metric) for metric in report["metrics"][:_HEADLINES]]
    return "\n".join(lines)


def _metric_line(metric: Mapping[str, Any]) -> str:
    null = metric.get("null")
    return f"  {metric['name']:<44} {number(metric['value']):>10}" + (
        f"   null {number(null)}" if null is not None else ""
    )


def number(value: float | None) -> str:
    """Three or four digits that mean something."""
    if value is None:
        return ""
    if value == int(value) and abs(value) < 10**9:
        return f"{int(value):,}"
    return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.3f}" if abs(value) >= 0.01 else f"{value:.2g}"


def _job(step: JobStep, artifact: Artifact) -> dict[str, Any]:
    record = artifact.record
    metrics = [_metric(metric) for metric in record.report["metrics"]]
    figures = [file for file in record.files if file.name.startswith("figures/")]
    return {
        "name": step.name,
        "anchor": step.artifact,
        "kind": record.kind,
        "artifact": step.artifact,
        "headline": record.report["headline"],
        "notes": record.report.get("notes", ()),
        "seconds": f"{record.seconds:.1f}",
        "config": json.dumps({"config": record.config, "inputs": _plain(record.inputs)}, indent=2),
        "metrics": metrics[:_SHOWN],
        "more": metrics[_SHOWN:],
        "figures": [
            {"caption": file.caption, "data": base64.b64encode(artifact.read(file.name)).decode()} for file in figures
        ],
    }


def _metric(metric: Mapping[str, Any]) -> dict[str, str]:
    return {
        "name": metric["name"],
        "value": number(metric["value"]),
        "null": number(metric.get("null")),
        "about": metric.get("about", ""),
    }


def _cache(step: CacheStep, lake: Lake) -> dict[str, str]:
    cache = lake.cache(step.facts.folder)
    rows = cache.n_rows if cache.sites else 0
    return {
        "name": step.name,
        "folder": step.facts.folder,
        "rows": f"{rows:,}",
        "documents": f"{cache.tokens.n_documents:,}" if rows else "0",
        "dtype": cache.record.identity.dtype,
        "sites": ", ".join(f"{site} ({cache.site(site).d})" for site in cache.sites),
    }


def _plain(value: Any) -> Any:
    import msgspec

    return msgspec.to_builtins(value)
