"""The precision that losses are computed in."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_fp32(x: Tensor) -> Tensor:
    """x in float32, or in float64 if it is that already: the precision of losses, also under autocast."""
    return x if x.dtype == torch.float64 else x.float()
