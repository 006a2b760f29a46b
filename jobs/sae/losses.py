"""What training makes small: the error, the activation's own penalty, and the revival of dead features.

B rows of a batch, F features, D dimensions of a hidden state, M dead features, K candidates among them.
"""

from typing import Annotated, assert_never

import torch
from msgspec import Meta
from torch import Tensor
from torch.nn import functional

from jobs.sae.activations import Relu, TopK
from jobs.sae.coder import Coder
from jobs.sae.codes import Codes, Dense, Sparse, pick
from storage.value import Value


class AuxK(Value):
    """Dead features learn to rebuild what the live ones leave (Gao et al. 2024, appendix A.2)."""

    weight: Annotated[float, Meta(ge=0)] = 1 / 32
    """Weight beside the error; 0 turns it off."""
    dead_after: Annotated[int, Meta(ge=1)] = 100_000
    """Rows without firing after which a feature counts as dead."""


def total(coder: Coder, x_BD: Tensor, dead_F: Tensor, aux: AuxK) -> tuple[Tensor, Codes, Tensor]:
    """The loss of a batch, its codes, and its squared error per dimension (where a dimension's variance is about 1)."""
    centred_BD = coder.centre(x_BD)
    codes = coder.activation.encode(centred_BD, coder.W_enc_FD, coder.b_enc_F)
    residual_BD = centred_BD - codes.mix(coder.W_dec_FD)
    error = residual_BD.square().mean()
    loss = error + penalty(coder, codes)
    if aux.weight and bool(dead_F.any()):
        loss = loss + aux.weight * auxiliary(coder, centred_BD.detach(), residual_BD.detach(), dead_F)
    return loss, codes, error.detach()


def penalty(coder: Coder, codes: Codes) -> Tensor:
    """What the activation asks for beside a small error."""
    match coder.activation:
        case TopK():
            return coder.b_enc_F.new_zeros(())
        case Relu(l1=l1):
            assert isinstance(codes, Dense)
            lengths_F = coder.W_dec_FD.norm(dim=1)
            return l1 * (codes.z_BF @ lengths_F).mean() / coder.W_dec_FD.shape[1] ** 0.5
        case _ as never:
            assert_never(never)


def auxiliary(coder: Coder, centred_BD: Tensor, residual_BD: Tensor, dead_F: Tensor) -> Tensor:
    """|e - e_hat|^2 / |e - mean e|^2: the residual e, and what the D/2 strongest dead features of a row make of it."""
    dead_M = dead_F.nonzero().squeeze(1)
    k = min(len(dead_M), max(1, residual_BD.shape[1] // 2))
    values_BK, features_BK = pick(centred_BD, coder.W_enc_FD[dead_M], coder.b_enc_F[dead_M], k)
    rebuilt_BD = Sparse(values_BK.relu(), features_BK).mix(coder.W_dec_FD[dead_M])
    spread = (residual_BD - residual_BD.mean(0)).square().mean()
    return functional.mse_loss(rebuilt_BD, residual_BD) / spread.clamp_min(torch.finfo(spread.dtype).tiny)
