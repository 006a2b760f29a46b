"""Points of known shape."""

import torch
from torch import Tensor


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Independent standard normal numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def rotation(d: int, wider: int | None = None, seed: int = 9) -> Tensor:
    """Orthonormal rows, [d, wider or d]."""
    return torch.linalg.qr(normal(wider or d, d, seed=seed)).Q.T


def plane(m: int, n: int = 500, width: int = 40, offset: float = 3.0) -> Tensor:
    """n points of a flat of m dimensions that lies `offset` from the origin, [n, width]."""
    return normal(n, m) @ rotation(m, wider=width) + offset
