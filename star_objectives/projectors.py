"""What several terms share: the MLPs between the student's states and what these are compared with."""

from __future__ import annotations

from itertools import pairwise

from torch import nn

from star.objectives import projector

WIDEST = 2048
"""Hidden width of REPA's, Mirai's and reAR's projectors."""


def hidden_width(dim: int) -> int:
    """2048 as published, and in models narrower than 512 four times their width."""
    return min(WIDEST, 4 * dim)


def published(dim: int, outputs: int) -> nn.Sequential:
    """REPA's projector, which Mirai has too: three linear layers with SiLU between them."""
    return projector(dim, outputs, hidden_width(dim))


def published_flops(dim: int, outputs: int, positions: float) -> float:
    """FLOPs of `published` at so many positions, forward and backward; a multiply-add counts as two."""
    return mlp_flops([dim, hidden_width(dim), hidden_width(dim), outputs], positions)


def mlp_flops(widths: list[int], positions: float) -> float:
    """FLOPs of linear layers between these widths at so many positions, forward and backward; a multiply-add counts as two."""
    return 6.0 * positions * sum(a * b for a, b in pairwise(widths))
