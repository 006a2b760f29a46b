"""The parity certificate: some sequences of a cache, run again by plain transformers, each alone.

T: tokens of the sequence, d: width of a site.
"""

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime

import ml_dtypes
import numpy as np
import torch
from torch import Tensor

from storage.cache import Cache
from storage.dtype import DtypeName, logical
from storage.errors import InputError
from storage.segment import Segment
from storage.sequences import Sequence as TokenSequence
from storage.sequences import Sequences
from storage.site import Site
from storage.value import Value, canonical
from workers import images
from workers.harvest import padded
from workers.model import LM, ModelSpec, inspect, load

_FLOAT32_TOLERANCE = 1e-5
"""Largest difference of float32 rows relative to the row's norm."""
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
    """Largest absolute difference relative to its row's norm."""
    tolerance: float
    """What `relative` may be: one rounding step of the stored dtype, or 1e-5 for float32."""

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


def certify(cache: Cache, source: str, n_sequences: int, seed: int = 0) -> Certificate:
    """Re-run up to `n_sequences` random sequences and compare; the certificate is stored in the cache."""
    identity = cache.record.identity.model
    facts = inspect(source, identity.revision or None)
    if facts.weights != identity.weights:
        raise InputError(
            f"cache {cache.id} was made by weights {identity.weights[:12]}, {source} has {facts.weights[:12]}: "
            "say where the right model is with --model"
        )
    lm = load(ModelSpec(source=source, revision=identity.revision, dtype=identity.dtype))
    worst = dict.fromkeys(cache.sites, (0, 0.0, 0.0))
    sample = _sample(cache, n_sequences, seed)
    for segment, sequence in sample:
        truth = _truth(
            cache, lm, sequence, tuple(site for site in cache.sites if segment in cache.sealed_segments(site))
        )
        first = sequence.start + _base(cache, segment)
        for site, x_Td in truth.items():
            stored_Td = cache.site(site)[first : first + len(x_Td)].astype(np.float32)
            worst[site] = _worse(worst[site], stored_Td, x_Td)
    tolerance = _tolerance(cache.record.identity.dtype)
    certificate = Certificate(
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        model=source,
        sequences=len(sample),
        seed=seed,
        sites=tuple(
            SiteParity(site=str(site), rows=rows, largest=largest, relative=relative, tolerance=tolerance)
            for site, (rows, largest, relative) in worst.items()
        ),
    )
    cache.folder.create(f"certificates/{certificate.made}-{uuid.uuid4().hex[:8]}.json", canonical(certificate))
    return certificate


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
    return sum(one.plan.rows for one in cache.segments[: segment.number])


def _truth(cache: Cache, lm: LM, sequence: TokenSequence, sites: Sequence[Site]) -> dict[Site, np.ndarray]:
    """The rows of one sequence, float32 [T, d]: from the model's own outputs where it gives them."""
    kind = cache.record.identity.tokenisation["kind"]
    if kind == "entries":
        ids_N = torch.from_numpy(sequence.input_ids.astype(np.int64))
        return {site: _array(lm.table(site, ids_N)) for site in sites}
    if kind == "patches":
        processor = images.load_processor(lm.spec.source, lm.spec.revision)
        inputs = {"pixel_values": images.pixels(processor, [sequence.image or b""])}
    else:
        ids_BT, _ = padded([sequence], torch.tensor([len(sequence.input_ids)]))
        inputs = {"input_ids": ids_BT}
    kept = len(sequence.input_ids)
    own = _outputs(lm, inputs)
    rest = [site for site in sites if site not in own]
    found = own | (lm.read(inputs, rest) if rest else {})
    return {site: _array(found[site][0, -kept:]) for site in sites}


def _outputs(lm: LM, inputs: dict[str, Tensor]) -> dict[Site, Tensor]:
    """What plain transformers returns by itself: every block's output but the last, whose entry is after the norm."""
    with torch.inference_mode():
        out = lm.module(**inputs, output_hidden_states=True)
    states = out.hidden_states
    found = {Site("embed"): states[0], Site("unembed"): out.last_hidden_state}
    return found | {Site("resid", layer): states[layer + 1] for layer in range(len(states) - 2)}


def _array(x: Tensor) -> np.ndarray:
    return np.asarray(x.float().cpu().numpy())


def _worse(worst: tuple[int, float, float], stored_Td: np.ndarray, x_Td: np.ndarray) -> tuple[int, float, float]:
    rows, largest, relative = worst
    gap_T = _gaps(stored_Td, x_Td).max(axis=1)
    norm_T = np.maximum(np.linalg.norm(np.where(np.isfinite(x_Td), x_Td, 0), axis=1), 1e-30)
    return rows + len(x_Td), max(largest, float(gap_T.max())), max(relative, float((gap_T / norm_T).max()))


def _gaps(stored_Td: np.ndarray, x_Td: np.ndarray) -> np.ndarray:
    """Absolute differences, float64 [T, d]: never NaN, which is larger than nothing, nor infinity, which JSON lacks."""
    same_Td = (stored_Td == x_Td) | (np.isnan(stored_Td) & np.isnan(x_Td))
    with np.errstate(invalid="ignore"):
        gap_Td = np.abs(stored_Td.astype(np.float64) - x_Td)
    return np.where(same_Td, 0.0, np.nan_to_num(gap_Td, nan=_FAR, posinf=_FAR))


def _tolerance(dtype: DtypeName) -> float:
    if dtype == "float32":
        return _FLOAT32_TOLERANCE
    return float(ml_dtypes.finfo(logical(dtype)).eps)  # type: ignore[no-untyped-call]
