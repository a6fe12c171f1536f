"""The teacher: an exponential moving average of the student."""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import Tensor, nn


class EMATeacher(nn.Module):
    """A frozen copy of `source` that follows it as an exponential moving average (section 3.3 of arXiv:2509.15185).

    Its weights keep the types that the source has when it is made. Give a float32 source, and let autocast narrow what the
    student computes: in bfloat16, updates at a decay of 0.9999 would round to nothing. Buffers are copied once, not averaged. It
    stays in evaluation mode.

    Args:
        source: an nn.Module; `update` gets one with the same parameters in the same order.
        decay: d, 0 to below 1.
        ramp: use min(decay, (1 + t) / (10 + t)) after optimizer step t (from 0).
    """

    def __init__(self, source: Any, decay: float, ramp: bool) -> None:
        super().__init__()
        self.copy = copy.deepcopy(source).requires_grad_(False).eval()
        self.decay = decay
        self.ramp = ramp

    def train(self, mode: bool = True) -> EMATeacher:
        """Does nothing: the teacher stays in evaluation mode, without dropout."""
        del mode
        return self

    def decay_at(self, step: int) -> float:
        """The decay of the update after optimizer step `step` (from 0)."""
        return min(self.decay, (1 + step) / (10 + step)) if self.ramp else self.decay

    @torch.no_grad()
    def update(self, source: Any, step: int) -> None:
        """teacher <- d teacher + (1 - d) source with d = decay_at(step), in one fused pass."""
        own, followed = list(self.copy.parameters()), list(source.parameters())
        found = [_as_held(theirs, mine) for mine, theirs in zip(own, followed, strict=True)]
        torch._foreach_lerp_([_local(mine) for mine in own], found, 1 - self.decay_at(step))


def _as_held(theirs: Tensor, mine: Tensor) -> Tensor:
    """The source as the average holds it: this rank's shard if both are sharded, all of it if the average is not."""
    if hasattr(theirs, "full_tensor") and not hasattr(mine, "to_local"):
        whole: Tensor = cast(Any, theirs).full_tensor()
        return whole
    return _local(theirs)


def _local(parameter: Tensor) -> Tensor:
    """This rank's shard of a sharded parameter; other parameters as they are."""
    return cast(Any, parameter).to_local() if hasattr(parameter, "to_local") else parameter
