"""The parity certificate: some sequences of a cache, run again by plain transformers, each alone.

N: rows of a sequence, d: width of a site.
"""

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np

from storage import sets
from storage.cache import Cache
from storage.dtype import DtypeName
from storage.segment import Segment
from storage.sequences import Sequence as TokenSequence
from storage.sequences import Sequences
from storage.site import Site, stored_dtype
from storage.value import Value, signed
from workers.confirm import confirm
from workers.model import ModelSpec
from workers.truth import Truth

_STEP: dict[DtypeName, float] = {"float32": 0.0, "bfloat16": 2**-8, "float16": 2**-11, "int8": 1 / 254}
"""Rounding to the stored type, of a row's norm: half a unit in the last place, or half of one scale of 127."""
_FORWARD: dict[DtypeName, float] = {"float32": 1e-5, "bfloat16": 2**-6, "float16": 2**-9}
"""What a forward in that type may differ by in a batch of another shape, of a row's norm.

Measured over the 29 families of the tests and models of 24 blocks, in batches of mixed lengths against one alone:
8e-7 in float32, 5.9e-3 in bfloat16, 6.3e-4 in float16. A mixture of experts in half precision can be further off where
its router is at a tie: such rows are named, as they are not what the model gives alone.
"""
_MASS = 2
"""Mass may differ by this much more: eager attention, its truth, rounds probabilities (measured 1.5e-2, 1.4e-3)."""
_FAR = float(np.finfo(np.float32).max)
"""The difference between a number and NaN or infinity."""


class SiteParity(Value):
    """How far one site's stored rows are from what the model gives now."""

    site: str
    rows: int
    """Rows compared."""
    largest: float
    """Largest absolute difference."""
    relative: float
    """Largest absolute difference relative to its row's norm; of mass, a probability, the difference itself."""
    tolerance: float
    """What `relative` may be: the rounding of the stored type, and what a forward in the model's type varies by."""

    @property
    def good(self) -> bool:
        return self.relative <= self.tolerance


class Certificate(Value):
    """`certificates/<time>-<id>.json`: a re-run of a sample, kept beside the seals."""

    made: str
    """UTC time."""
    model: str
    """Where the model was read."""
    sequences: int
    seed: int
    sites: tuple[SiteParity, ...]


def certify(cache: Cache, model: str | None, n_sequences: int, seed: int = 0) -> Certificate:
    """Re-run up to `n_sequences` random sequences and compare; the certificate is stored in the cache."""
    identity, source = cache.record.identity, confirm(cache, model)
    spec = ModelSpec(source=source, revision=identity.model.revision, dtype=identity.model.dtype)
    sample = _sample(cache, n_sequences, seed)
    certificate = Certificate(
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        model=source,
        sequences=len(sample),
        seed=seed,
        sites=_compare(cache, Truth(spec, identity.tokenisation["kind"], _sets(cache)), sample),
    )
    cache.folder.create(f"certificates/{certificate.made}-{uuid.uuid4().hex[:8]}.json", signed(certificate))
    return certificate


def _compare(cache: Cache, truth: Truth, sample: Sequence[tuple[Segment, TokenSequence]]) -> tuple[SiteParity, ...]:
    """The worst of every site."""
    worst = dict.fromkeys(cache.sites, (0, 0.0, 0.0))
    for segment, sequence in sample:
        sites = [site for site in cache.sites if segment in cache.sealed_segments(site)]
        first = sequence.start + _base(cache, segment)
        for site, x_Nd in truth.rows(sequence, sites).items():
            stored_Nd = cache.site(site)[first : first + len(x_Nd)].astype(np.float32)
            worst[site] = _worse(worst[site], stored_Nd, x_Nd, site.kind == "mass")
    identity = cache.record.identity
    return tuple(
        SiteParity(
            site=str(site),
            rows=rows,
            largest=largest,
            relative=relative,
            tolerance=tolerance(site, identity.dtype, identity.model.dtype),
        )
        for site, (rows, largest, relative) in worst.items()
    )


def _sample(cache: Cache, count: int, seed: int) -> list[tuple[Segment, TokenSequence]]:
    """Sequences at random rows of the sealed segments, each once; the longer one is, the likelier it is drawn."""
    readers = [Sequences(segment) for segment in cache.segments]
    chosen = {}
    for row in np.sort(np.random.default_rng(seed).choice(cache.n_rows, min(count, cache.n_rows), replace=False)):
        for segment, reader in zip(cache.segments, readers, strict=True):
            if row < segment.plan.rows:
                sequence = next(reader.touching(int(row), int(row) + 1))
                chosen[segment.number, sequence.start] = (segment, sequence)
                break
            row -= segment.plan.rows
    return list(chosen.values())


def _base(cache: Cache, segment: Segment) -> int:
    return sum(one.plan.rows for one in cache.segments if one.number < segment.number)


def _sets(cache: Cache) -> dict[str, tuple[int, ...]]:
    """The token ids of every set whose logits the cache holds."""
    return {site.path: sets.read(cache.folder, site.path).ids for site in cache.sites if site.kind == "logits"}


def _worse(
    worst: tuple[int, float, float], stored_Nd: np.ndarray, x_Nd: np.ndarray, probable: bool
) -> tuple[int, float, float]:
    rows, largest, relative = worst
    gap_N = _gaps(stored_Nd, x_Nd).max(axis=1)
    norm_N = np.linalg.norm(np.where(np.isfinite(x_Nd), x_Nd, 0), axis=1)
    share_N = gap_N if probable else gap_N / np.maximum(norm_N, 1e-30)
    return rows + len(x_Nd), max(largest, float(gap_N.max())), max(relative, float(share_N.max()))


def _gaps(stored_Nd: np.ndarray, x_Nd: np.ndarray) -> np.ndarray:
    """Absolute differences, float64 [T, d]: never NaN, which is larger than nothing, nor infinity, which JSON lacks."""
    same_Nd = (stored_Nd == x_Nd) | (np.isnan(stored_Nd) & np.isnan(x_Nd))
    with np.errstate(invalid="ignore"):
        gap_Nd = np.abs(stored_Nd.astype(np.float64) - x_Nd)
    return np.where(same_Nd, 0.0, np.nan_to_num(gap_Nd, nan=_FAR, posinf=_FAR))


def tolerance(site: Site, stored: DtypeName, forward: DtypeName) -> float:
    """What a site's rows may differ by, of a row's norm, in a cache of that type made by a forward in that type."""
    more = _MASS if site.kind == "mass" and forward != "float32" else 1
    return _STEP[stored_dtype(site, stored)] + more * _FORWARD[forward]
