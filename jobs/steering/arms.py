"""The vectors that are added: the model's own, those carried over from another model, and all their controls.

S width of the source's site, T width of the model's.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from jobs import emb2emb
from jobs.alignment.maps import Fitted
from jobs.contrast.vectors import load
from jobs.core.context import Context
from jobs.steering.config import Config, Transfer
from storage.errors import InputError
from storage.site import Site

Group = Literal["native", "transfer", "control", "random"]


@dataclass(frozen=True)
class Arm:
    """One vector, as it is added at strength 1."""

    name: str
    group: Group
    vector_T: Tensor
    matched: bool = True
    """Whether it was scaled to the native norm."""


def arms(config: Config, ctx: Context, width: int) -> list[Arm]:
    """All of them, the native one first; `InputError` where a vector or a map does not fit."""
    native_T = _at(ctx, config.vectors, config, config.site)
    _fits(f"the vector of {config.vectors} at {config.site}", len(native_T), f"{config.cache} there", width)
    found = [Arm("native", "native", native_T)]
    if config.transfer is None:
        found += [_other(name, _at(ctx, name, config, config.site), native_T) for name in config.others]
    else:
        found += _transferred(config, config.transfer, ctx, native_T)
    generator = torch.Generator().manual_seed(config.seed)
    for at in range(config.random):
        found.append(Arm(f"random {at}", "random", _scaled(torch.randn(width, generator=generator), native_T)))
    return found


def _transferred(config: Config, transfer: Transfer, ctx: Context, native_T: Tensor) -> Iterator[Arm]:
    source_S = _at(ctx, transfer.vectors, config, transfer.site)
    artifact = ctx.artifact(transfer.map)
    maps = {kind: emb2emb.load(artifact, kind) for kind in (*transfer.kinds, emb2emb.PERMUTED)}
    for kind in transfer.kinds:
        mapped_T = _mapped(source_S, maps[kind], transfer, kind, native_T)
        yield Arm(kind, "transfer", _scaled(mapped_T, native_T))
        yield Arm(f"{kind}, raw", "transfer", mapped_T, matched=False)
    permuted_T = _mapped(source_S, maps[emb2emb.PERMUTED], transfer, emb2emb.PERMUTED, native_T)
    yield Arm("permuted map", "control", _scaled(permuted_T, native_T))
    first = transfer.kinds[0]
    for name in config.others:
        other_S = _at(ctx, name, config, transfer.site)
        yield _other(name, _mapped(other_S, maps[first], transfer, first, native_T), native_T)
    yield Arm("not mapped", "control", _scaled(_padded(source_S, len(native_T)), native_T))


def _at(ctx: Context, job: str, config: Config, site: Site) -> Tensor:
    vector_D = load(ctx.artifact(job)).at(site, config.method)
    if not float(vector_D.norm()) > 0:
        raise InputError(
            f"the vector of {job} at {site} has norm {float(vector_D.norm()):g}: the two sides have the same states "
            "there; take a later site"
        )
    return vector_D


def _other(name: str, vector_T: Tensor, native_T: Tensor) -> Arm:
    return Arm(f"other: {name}", "control", _scaled(vector_T, native_T))


def _mapped(source_S: Tensor, fitted: Fitted, transfer: Transfer, kind: str, native_T: Tensor) -> Tensor:
    rows, columns = fitted.M_ST.shape
    _fits(f"the vector of {transfer.vectors} at {transfer.site}", len(source_S), f"map {kind} of {transfer.map}", rows)
    _fits(f"map {kind} of {transfer.map}", columns, "the model's site", len(native_T))
    mapped_T = source_S @ fitted.M_ST
    if not float(mapped_T.norm()) > 0:
        raise InputError(f"map {kind} of {transfer.map} sends a vector at {transfer.site} to zero: take another map")
    return mapped_T


def _padded(source_S: Tensor, width: int) -> Tensor:
    """The source's numbers as they are, cut or filled up with zeros."""
    padded_T = torch.zeros(width)
    kept = min(width, len(source_S))
    padded_T[:kept] = source_S[:kept]
    return padded_T


def _scaled(vector_T: Tensor, native_T: Tensor) -> Tensor:
    return vector_T * (native_T.norm() / vector_T.norm())


def _fits(what: str, width: int, where: str, wanted: int) -> None:
    if width != wanted:
        raise InputError(
            f"{what} has width {width}, {where} has width {wanted}: name a vector, a map and a site that belong to one "
            "another"
        )
