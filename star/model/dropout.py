"""Dropout whose mask is a function of a sequence's own seed.

A generator's mask depends on what was drawn before it, so splitting a batch into micro-batches or over ranks would
change the loss. Here each element's mask is a hash of (its sequence's seed, the layer, its place): the batch's layout
does not matter, and no state has to be saved to draw the same mask again.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

GOLDEN = 0x9E3779B9
"""2^32 over the golden ratio: its multiples spread consecutive integers."""


def wrapped(number: int) -> int:
    """`number` wrapped into the range of int32."""
    return (number + 2**31) % 2**32 - 2**31


def spread(place: Tensor) -> Tensor:
    """`place` (int32, not negative) times GOLDEN, wrapped to int32.

    Computed in two halves: from a single product, a compiler that knows that `place` is an index makes an index with a
    factor beyond int32, which Triton refuses.
    """
    return place * (GOLDEN & 0xFFFF) + ((place * (GOLDEN >> 16)) << 16)


def mixed(x: Tensor) -> Tensor:
    """A bijective hash of int32 that maps neighbouring values far apart: lowbias32 (Wellons, Prospecting for Hash Functions, 2018)."""
    x = x ^ ((x >> 16) & 0xFFFF)
    x = x * 0x7FEB352D
    x = x ^ ((x >> 15) & 0x1FFFF)
    x = x * wrapped(0x846CA68B)
    return x ^ ((x >> 16) & 0xFFFF)


def layer_seeds(seeds: Tensor | None, number: int) -> Tensor | None:
    """The dropout seeds (B,) of one layer. Computed outside the layer, so that all layers compile to the same code."""
    return None if seeds is None else mixed(seeds + wrapped(number * GOLDEN))


class SequenceDropout(nn.Module):
    """Dropout with probability `p` of sequences that come with seeds; without seeds the identity. The module's mode is not read.

    Args:
        p: probability, 0 to 1.
        site: number of this dropout in its layer; two sites draw different masks.
    """

    def __init__(self, p: float, site: int) -> None:
        super().__init__()
        self.p = p
        self.site = site

    def forward(self, x: Tensor, seeds: Tensor | None) -> Tensor:
        """Apply dropout to x (B, T, D) with its sequences' seeds (B,) int32; what is kept is scaled by 1 / (1 - p)."""
        if seeds is None or self.p == 0:
            return x
        own = mixed(seeds + wrapped(self.site * GOLDEN))
        place = torch.arange(x.shape[1] * x.shape[2], dtype=torch.int32, device=x.device)
        drawn = mixed(own[:, None] ^ mixed(spread(place))) & 0x7FFFFFFF  # (B, T*D), uniform in 31 bits
        keep = (drawn >= int(self.p * 2**31)).view_as(x) if self.p < 1 else torch.zeros_like(x, dtype=torch.bool)
        return x * keep * (1 / (1 - self.p) if self.p < 1 else 0.0)
