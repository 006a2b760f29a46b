"""Linear algebra over many small neighbourhoods at once, in float64 and in bounded memory.

Shapes: N points, Q of them queried, K neighbours each, D width, B a block of queries.
"""

from collections.abc import Iterator

import numpy as np
import torch
from scipy.linalg import eigh
from scipy.linalg.blas import ssyrk
from torch import Tensor

WORKING_BYTES = 64 << 20
"""What one block of working memory may take."""


def blocks(n: int, row_bytes: int) -> Iterator[slice]:
    """Slices that cover `range(n)`, each holding as many rows as the working memory does, at least one."""
    size = max(1, WORKING_BYTES // max(1, row_bytes))
    return (slice(start, min(n, start + size)) for start in range(0, n, size))


def unit_rows(x_ND: Tensor) -> Tensor:
    """Rows scaled to length 1; a zero row stays zero."""
    return x_ND / torch.linalg.vector_norm(x_ND, dim=1, keepdim=True).clamp_min(torch.finfo(x_ND.dtype).tiny)


def centred(x_ND: Tensor) -> Tensor:
    """Rows minus their mean, which is taken in float64."""
    return x_ND - mean_row(x_ND).to(x_ND.dtype)


def mean_row(x_ND: Tensor) -> Tensor:
    """float64 [D], block by block: at once, a float64 copy of all rows would be made."""
    total_D = torch.zeros(x_ND.shape[1], dtype=torch.float64, device=x_ND.device)
    for part in blocks(len(x_ND), 16 * x_ND.shape[1]):
        total_D += x_ND[part].sum(0, dtype=torch.float64)
    return total_D / len(x_ND)


def mean_and_scatter(x_ND: Tensor) -> tuple[Tensor, Tensor]:
    """The mean row and the sum over rows of (x - mean)'(x - mean), float64 [D] and [D, D]."""
    mean_D = mean_row(x_ND)
    scatter_DD = torch.zeros(len(mean_D), len(mean_D), dtype=torch.float64, device=x_ND.device)
    for part in blocks(len(x_ND), 16 * x_ND.shape[1]):
        apart_BD = x_ND[part].double() - mean_D
        scatter_DD.addmm_(apart_BD.T, apart_BD)
    return mean_D, scatter_DD


def without_widest(apart_ND: Tensor, top: int) -> Tensor:
    """Centred rows less their parts along the first principal components."""
    _, scatter_DD = mean_and_scatter(apart_ND)
    widest_DK = torch.linalg.eigh(scatter_DD).eigenvectors[:, -top:]
    rest_ND = torch.empty_like(apart_ND)
    for part in blocks(len(apart_ND), 32 * apart_ND.shape[1]):
        apart_BD = apart_ND[part].double()
        rest_ND[part] = (apart_BD - (apart_BD @ widest_DK) @ widest_DK.T).to(apart_ND.dtype)
    return rest_ND


def products(a_ND: Tensor, b_MD: Tensor) -> Tensor:
    """Products of all rows with all rows, [N, M]; on the CPU by NumPy's BLAS, which is quicker on some processors."""
    if a_ND.device.type != "cpu":
        return a_ND @ b_MD.T
    return torch.from_numpy(a_ND.numpy() @ b_MD.numpy().T)


def barycentric_weights(
    x_ND: Tensor, queries_Q: Tensor, neighbours_QK: Tensor, reg: float = 1e-3
) -> tuple[Tensor, Tensor]:
    """Weights that rebuild each query from its neighbours, and the squared length of what is left, both float64.

    min_w |x_i - sum_j w_j x_j|^2 with sum_j w_j = 1 (Roweis & Saul 2000): with Z the neighbours minus x_i and
    G = Z Z^T + reg tr(Z Z^T) I, w is G^-1 1 scaled to sum to 1. Signs are free. Where all neighbours coincide with
    the point the trace is 0 and reg I is added instead.
    """
    n, k = neighbours_QK.shape
    weights_QK = torch.empty(n, k, dtype=torch.float64, device=x_ND.device)
    residual_Q = torch.empty(n, dtype=torch.float64, device=x_ND.device)
    for part in blocks(n, 16 * k * (x_ND.shape[1] + k)):
        z_BKD = x_ND[neighbours_QK[part]].double() - x_ND[queries_Q[part], None].double()
        w_BK = _sum_to_one(z_BKD @ z_BKD.mT, reg)
        weights_QK[part] = w_BK
        residual_Q[part] = torch.einsum("bk,bkd->bd", w_BK, z_BKD).square().sum(1)
    return weights_QK, residual_Q


def _sum_to_one(gram_BKK: Tensor, reg: float) -> Tensor:
    trace_B = gram_BKK.diagonal(dim1=1, dim2=2).sum(1)
    ridge_B = reg * torch.where(trace_B > 0, trace_B, torch.ones_like(trace_B))
    eye_KK = torch.eye(gram_BKK.shape[1], dtype=gram_BKK.dtype, device=gram_BKK.device)
    factor_BKK = torch.linalg.cholesky(gram_BKK + ridge_B[:, None, None] * eye_KK)
    ones_BK1 = torch.ones_like(gram_BKK[:, :, :1])
    u_BK = torch.cholesky_solve(ones_BK1, factor_BKK).squeeze(2)
    return u_BK / u_BK.sum(1, keepdim=True)


def local_spectra(x_ND: Tensor, neighbours_QK: Tensor) -> Tensor:
    """Eigenvalues, largest first, of the covariance of each neighbourhood about its own mean: float64 [Q, min(K-1, D)].

    Of the K x K Gram matrix and the D x D covariance, which share them, the smaller is decomposed.
    """
    n, k = neighbours_QK.shape
    width = x_ND.shape[1]
    kept = min(k - 1, width)
    spectra_QM = torch.empty(n, kept, dtype=torch.float64, device=x_ND.device)
    for part in blocks(n, 16 * (k * width + min(k, width) ** 2)):
        z_BKD = x_ND[neighbours_QK[part]].double()
        z_BKD -= z_BKD.mean(1, keepdim=True)
        square = z_BKD @ z_BKD.mT if k <= width else z_BKD.mT @ z_BKD
        spectra_QM[part] = torch.linalg.eigvalsh(square).flip(1)[:, :kept] / (k - 1)
    return spectra_QM.clamp_min(0)


def quick_spectra(x_ND: Tensor, neighbours_QK: Tensor) -> Tensor:
    """As `local_spectra`, in float32 on the CPU: right to some 1e-6 of the largest eigenvalue, at a third of the time.

    BLAS multiplies half of the symmetric product, one neighbourhood at a time; elsewhere than on the CPU the exact
    spectra are as quick.
    """
    if x_ND.device.type != "cpu":
        return local_spectra(x_ND, neighbours_QK)
    n, k = neighbours_QK.shape
    kept = min(k - 1, x_ND.shape[1])
    spectra_QM = np.empty((n, kept))
    x, neighbours = x_ND.numpy(), neighbours_QK.numpy()
    for at, near_K in enumerate(neighbours):
        z_KD = x[near_K]
        z_KD -= z_KD.mean(0, dtype=np.float64).astype(np.float32)
        side = z_KD.T if len(z_KD) > z_KD.shape[1] else z_KD  # rows of the smaller product
        square = ssyrk(1.0, side, lower=1)
        values = eigh(square, lower=True, eigvals_only=True, driver="evd", overwrite_a=True, check_finite=False)
        spectra_QM[at] = values[::-1][:kept] / (k - 1)
    return torch.from_numpy(spectra_QM).clamp_min(0)
