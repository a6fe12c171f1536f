"""The precision that losses are computed in."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def at_least_fp32(x: Tensor) -> Tensor:
    """x in float32, or in float64 if it is that already: the precision of losses, also under autocast."""
    return x if x.dtype == torch.float64 else x.float()


def autocast_of(x: Tensor) -> tuple[bool, torch.dtype | None]:
    """Whether autocast is on for the device of x, and its type; a device may have none."""
    kind = x.device.type
    if not torch.amp.is_autocast_available(kind):
        return False, None
    return torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)


def autocast_if(x: Tensor, enabled: bool, dtype: torch.dtype | None = None) -> AbstractContextManager[object]:
    """A context with autocast on or off for the device of x; does nothing on a device that has none."""
    kind = x.device.type
    return torch.autocast(kind, dtype, enabled) if torch.amp.is_autocast_available(kind) else nullcontext()
