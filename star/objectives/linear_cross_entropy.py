"""Cross entropy of a linear head, without ever holding the logits of all positions.

Over 16,384 codes the logits of one position take 32 KB in bfloat16 and twice that in float32, and a step would hold several
such arrays. Here the logits of a block of positions are made, turned into their part of the loss and of the gradients, and
forgotten.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from star.model.kernels import linear, outer
from star.objectives.precision import at_least_fp32, autocast_if, autocast_of

BLOCK = {"cuda": 2**27, "cpu": 2**18}
"""Logits held at once: as many as fill a GPU, or fit into a CPU core's cache."""


def linear_cross_entropy(hidden: Tensor, weight: Tensor, codes: Tensor) -> Tensor:
    """The cross entropy -log softmax(hidden weight^T)[codes], summed over positions.

    Products are computed in autocast's precision if there is one, the softmax in at least float32. The gradients come with
    the loss, so there is no second derivative.

    Args:
        hidden: (N, D), what the head reads.
        weight: (V, D), the head's.
        codes: (N,) long.
    """
    enabled, dtype = autocast_of(hidden)
    narrow = dtype if enabled and hidden.dtype != torch.float64 else hidden.dtype  # autocast leaves float64 alone
    return cast(Tensor, _LinearCrossEntropy.apply(hidden, weight, codes, narrow, torch.is_grad_enabled()))


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, codes: Tensor, narrow: torch.dtype, wanted: bool) -> Tensor:
        size = max(1, BLOCK.get(hidden.device.type, 2**18) // len(weight))
        of_hidden = torch.empty_like(hidden) if wanted and ctx.needs_input_grad[0] else None
        of_weight = torch.zeros_like(weight) if wanted and ctx.needs_input_grad[1] else None
        needed = of_hidden is not None or of_weight is not None
        total = at_least_fp32(hidden.new_zeros(()))
        with autocast_if(hidden, False):
            head = weight.to(narrow)
            for rows in (slice(first, first + size) for first in range(0, len(hidden), size)):
                block = hidden[rows].to(narrow)
                loss, of_logits = _of_block(linear(block, head), codes[rows, None], needed)
                total += loss
                if of_logits is not None and of_hidden is not None:
                    of_hidden[rows] = linear(of_logits, head.T)
                if of_logits is not None and of_weight is not None:
                    of_weight += outer(of_logits, block)
                del of_logits  # before the next block is made
        ctx.save_for_backward(of_hidden, of_weight)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        found = (None if one is None else one * grad for one in ctx.saved_tensors)
        return *found, None, None, None


def _of_block(logits: Tensor, codes: Tensor, needed: bool) -> tuple[Tensor, Tensor | None]:
    """The loss of logits (N, V) at codes (N, 1), and its gradient to the logits, in their type: softmax less one at the code."""
    log_shares = torch.log_softmax(logits, dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))
    own = log_shares.gather(1, codes)
    loss = -own.sum()
    return loss, log_shares.exp_().scatter_(1, codes, own.exp() - 1).to(logits.dtype) if needed else None
