"""`garner verify`: sealed caches re-read, and a sample re-run through plain transformers where asked."""

import argparse
from collections.abc import Iterator

from storage.cache import Cache
from storage.errors import InputError
from storage.lake import Lake
from storage.verify import verify as check


def verify(arguments: argparse.Namespace) -> Iterator[tuple[str, bool]]:
    """(line, good) for everything checked."""
    if arguments.sequences < 1:
        raise InputError(f"--sequences {arguments.sequences}: a certificate needs at least 1 sequence")
    lake = Lake(arguments.lake)
    names = [arguments.name] if arguments.name else list(lake.caches())
    if not names:
        raise InputError(f"lake {lake.folder} holds no cache; is the URL right?")
    for name in names:
        cache = lake.cache(name)
        yield f"cache {cache.id}", True
        yield from _files(cache)
        if arguments.against_model:
            yield from _parity(cache, arguments)


def _files(cache: Cache) -> Iterator[tuple[str, bool]]:
    for one in check(cache):
        good = not one.findings
        size = f"{one.rows:,} rows, {one.bytes / 2**20:,.1f} MiB"
        nonfinite = f", {one.nonfinite} rows not finite" if one.nonfinite else ""
        yield f"  {'ok' if good else 'BAD':<4} segment {one.segment} {one.site:<20} {size}{nonfinite}", good
        for finding in one.findings:
            yield f"       {finding.path} {finding.problem}", False


def _parity(cache: Cache, arguments: argparse.Namespace) -> Iterator[tuple[str, bool]]:
    from workers.parity import certify

    source = arguments.model or cache.record.made.get("model", "")
    for one in certify(cache, source, arguments.sequences).sites:
        yield (
            f"  {'ok' if one.good else 'BAD':<4} parity    {one.site:<20} largest difference {one.largest:.3g}, "
            f"{one.relative:.2g} of the row's norm (at most {one.tolerance:.2g}) over {one.rows:,} rows",
            one.good,
        )
