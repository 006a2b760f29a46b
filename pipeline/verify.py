"""`garner verify`: caches re-read to the last byte, and a sample re-run through plain transformers where asked."""

import argparse
from collections.abc import Iterator

from storage.cache import Cache
from storage.errors import InputError, RunError
from storage.lake import Lake
from storage.verify import verify as check


def verify(arguments: argparse.Namespace) -> Iterator[tuple[str, bool]]:
    """(line, good) for everything checked; a cache that cannot be opened does not keep others from being checked."""
    if arguments.sequences < 1:
        raise InputError(f"--sequences {arguments.sequences}: a certificate needs at least 1 sequence")
    lake = Lake(arguments.lake)
    for name in named(lake, arguments.name):
        yield f"cache {name}", True
        try:
            yield from _checked(lake.cache(name), arguments)
        except RunError as error:
            yield f"  BAD  {error}", False


def _checked(cache: Cache, arguments: argparse.Namespace) -> Iterator[tuple[str, bool]]:
    whole = True
    for line, good in _files(cache):
        yield line, good
        whole = whole and good
    if arguments.against_model and whole:
        yield from _parity(cache, arguments)


def named(lake: Lake, name: str | None) -> list[str]:
    """The cache of that name, or all; `InputError` where there is none."""
    names = [name] if name else list(lake.caches())
    if not names:
        raise InputError(f"lake {lake.folder} holds no cache; is the URL right?")
    return names


def _files(cache: Cache) -> Iterator[tuple[str, bool]]:
    for one in check(cache):
        good = not one.findings
        if one.what != "records":
            nonfinite = f", {one.nonfinite} rows not finite" if one.nonfinite else ""
            size = f"{one.rows:,} rows, {one.bytes / 2**20:,.1f} MiB{nonfinite}"
            yield f"  {'ok' if good else 'BAD':<4} segment {one.segment} {one.what:<20} {size}", good
        for finding in one.findings:
            yield f"  BAD  {finding.path} {finding.problem}", False


def _parity(cache: Cache, arguments: argparse.Namespace) -> Iterator[tuple[str, bool]]:
    from workers.parity import certify

    for one in certify(cache, arguments.model, arguments.sequences).sites:
        share = "" if one.site.startswith("mass.") else " of the row's norm"
        yield (
            f"  {'ok' if one.good else 'BAD':<4} parity    {one.site:<20} largest difference {one.largest:.3g}, "
            f"{one.relative:.2g}{share} (at most {one.tolerance:.2g}) over {one.rows:,} rows",
            one.good,
        )
