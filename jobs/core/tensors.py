"""The one crossing from stored NumPy arrays to torch tensors."""

import ml_dtypes
import numpy as np
import torch
from torch import Tensor


def as_tensor(x: np.ndarray, device: str = "cpu") -> Tensor:
    """`x` as float32 on `device`; bfloat16 bits are reinterpreted, never converted through text or float64."""
    if x.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(x.view(np.int16)).view(torch.bfloat16).to(device, torch.float32)
    return torch.from_numpy(x).to(device, torch.float32)
